"""One operation a file, each written plainly first; what is faster somewhere stands beside it and must agree."""
