"""Tasks, how text models answer and learn them, and prompted models as their predictors."""
