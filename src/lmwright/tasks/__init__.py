"""Tasks (examples, head, loss, score), and prompted models as their predictors."""
