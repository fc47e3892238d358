"""What `make bench` runs: every figure of docs/benchmarks.md, measured side by side in one run."""
