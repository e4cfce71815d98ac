# SPDX-License-Identifier: Apache-2.0
"""Write the reference pages of the documentation from the code; a hook of MkDocs, so that they are in no commit."""

from __future__ import annotations

import inspect
import json
from importlib import resources
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from runner.cli import cli
from runner.core import errors
from runner.core.records import EXIT_CODES


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"commands": commands(), "exit-codes": exit_codes()}
    pages |= {name: schema(name) for name in ("plan", "metrics", "summary")}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def commands() -> str:
    """Return every command with its options."""
    parts = ["# Commands\n", "Each option can also be set as an environment variable `RUNNER_<COMMAND>_<OPTION>`.\n"]
    for path, command in _walk(click.Context(cli, info_name="runner"), cli, ("runner",)):
        parts.append(f"## {' '.join(path)}\n\n{_help(command)}\n")
        options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
        if options:
            parts.append("| option | default | meaning |\n|---|---|---|")
            parts += [f"| {_names(option)} | {_default(option)} | {_cell(option.help or '')} |" for option in options]
            parts.append("")
    return "\n".join(parts)


def _walk(ctx: click.Context, command: click.Command, path: tuple[str, ...]) -> Any:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(ctx):
        inner = command.get_command(ctx, name)
        assert inner is not None
        yield from _walk(click.Context(inner, info_name=name, parent=ctx), inner, (*path, name))


def _help(command: click.Command) -> str:
    """Return a help text as Markdown: what click keeps as it is becomes a block of code."""
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip().startswith("runner ")]
    arguments = " ".join(param.human_readable_name for param in command.params if isinstance(param, click.Argument))
    shown = "\n".join(lines)
    usage = f"Arguments: `{arguments}`\n\n" if arguments else ""
    return usage + _plain(text) + (f"\n\n```console\n{shown}\n```\n" if lines else "\n")


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*").strip()


def _names(option: click.Option) -> str:
    flags = " / ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    kind = "" if option.is_flag else f" {option.metavar or option.type.name}"
    return f"{flags}{_cell(kind)}"


def _default(option: click.Option) -> str:
    value = option.default
    known = isinstance(value, str | int | float | Path) and not (option.is_flag and value is False)
    return f"`{value}`" if option.show_default and known else ""


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", "\\|")


def exit_codes() -> str:
    """Return the exit codes of a run and of errors."""
    rows = [f"| {code} | status `{status.value}` |" for status, code in EXIT_CODES.items()]
    rows.append("| 130 | status `terminated`, by SIGINT |")
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RunnerError)]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        first = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
        rows.append(f"| {kind.exit_code} | {_cell(first)} |")
    return (
        "# Exit codes\n\n`runner run` ends with the code of the notebook's status, else with that of the error.\n\n"
        "| code | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"
    )


def schema(name: str) -> str:
    """Return the fields of a published document."""
    document = json.loads(resources.files("runner.core").joinpath("schemas", f"{name}.json").read_text("utf-8"))
    titles = {"plan": "Plans", "metrics": "Records", "summary": "Summary of a report"}
    parts = [f"# {titles[name]}\n", f"The JSON Schema: `runner plan schema {name}`.\n"]
    for title, part in ((document["title"], document), *document.get("$defs", {}).items()):
        parts.append(f"## {title}\n\n{_plain(part.get('description', ''))}\n")
        if "enum" in part:
            parts.append("One of " + ", ".join(f"`{value}`" for value in part["enum"]) + ".\n")
        if fields := part.get("properties"):
            parts.append("| field | type | default |\n|---|---|---|")
            required = set(part.get("required", ()))
            parts += [
                f"| `{key}` | {_type(field)} | {_given(field, key in required)} |" for key, field in fields.items()
            ]
            parts.append("")
    return "\n".join(parts)


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if choices := field.get("anyOf"):
        return " or ".join(_type(choice) for choice in choices)
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {_type(field['additionalProperties'])}"
    return str(field.get("type", "any"))


def _given(field: dict[str, Any], required: bool) -> str:
    return "required" if required else f"`{json.dumps(field['default'])}`" if "default" in field else ""
