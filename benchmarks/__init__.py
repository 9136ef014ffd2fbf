"""Speed and memory, measured side by side; see README.md beside this file."""
