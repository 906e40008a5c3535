"""The Helm chart, and what is made from the schema of its values."""
