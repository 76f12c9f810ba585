"""What the examples share: command lines, errors in one line, run folders, progress, drawing."""
