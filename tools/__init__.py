"""Scripts that a person runs by hand: the demo, benchmarks, the fuzzer."""
