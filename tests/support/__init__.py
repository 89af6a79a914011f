"""Small real parts that tests of several rooms share."""
