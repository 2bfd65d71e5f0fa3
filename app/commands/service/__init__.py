"""Commands that ask a running service, through `service_client`: each reads an answer of its and prints it, as a
table for people or as JSON for programs. The tables themselves are made in `app/terminal`."""
