"""One file per command: parse, call one function, print. What is heavy is imported inside the command's function."""
