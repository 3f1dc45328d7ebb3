"""The command line: `compline`. Data to stdout, talk to stderr, `--json` everywhere."""
