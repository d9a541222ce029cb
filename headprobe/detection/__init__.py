"""The frame in which every detector is a row: methods, segmenters, steps, and the benchmark that compares them."""
