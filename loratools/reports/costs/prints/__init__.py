"""What the paper prints about each of its models, row by row beside the formula: a table a file."""
