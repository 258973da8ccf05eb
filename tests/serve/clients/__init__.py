"""Programs of others that are pointed at a server: `make test-serve` installs them (the extra `clients`)."""
