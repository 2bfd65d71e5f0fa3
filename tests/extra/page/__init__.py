"""The status page in a browser, against the real service: `make test-page` makes an environment with Playwright."""
