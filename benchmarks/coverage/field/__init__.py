"""Models of libraries that others wrote, small, with random weights.

In an environment of its own:

    python -m venv .field && .field/bin/pip install -e . -r benchmarks/requirements-field.txt
    .field/bin/python -m benchmarks.coverage --family field
"""
