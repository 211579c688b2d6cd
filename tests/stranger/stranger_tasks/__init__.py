"""A stranger's task: sets of labels in a hierarchy, judged by several annotators a text."""
