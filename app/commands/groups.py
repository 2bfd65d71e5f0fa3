"""The commands in groups, as `--help` lists them, and their other names."""

from __future__ import annotations

import difflib

import click

SECTIONS = {
    "Serve": ("serve", "check-config", "reload", "doctor", "install-service"),
    "Use": ("pull", "run", "launch"),
    "Inspect": ("ps", "top", "models", "show", "logs", "decisions"),
    "Control": ("load", "unload", "pin", "unpin", "rm"),
    "Plan": ("estimate", "plan"),
    "Set up": ("engine", "convert-config", "completion"),
}
ALIASES = {"list": "models", "stop": "unload"}


class GroupedCommands(click.Group):
    """Lists its commands by section. An unknown name is answered with a similar one."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], [*self.commands, *ALIASES], n=1)
            ctx.fail(f"no such command '{args[0]}'" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, map(_with_aliases, self.commands)))
        for title, names in SECTIONS.items():
            helps = ((name, self.commands[name].get_short_help_str(100)) for name in names)
            with formatter.section(title):
                formatter.write_dl([(_with_aliases(name).ljust(width), text) for name, text in helps])


def _with_aliases(name: str) -> str:
    return ", ".join([name, *(alias for alias, of in ALIASES.items() if of == name)])
