"""Where the platform's figures come from: `python -m benchmarks.run`, explained in README.md."""
