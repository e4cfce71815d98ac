# SPDX-License-Identifier: Apache-2.0
"""Every command of the manifests is parsed by the real command line, with the parameters filled in."""

from __future__ import annotations

import click
import pytest
from support import tekton

from runner.cli import cli

WORKSPACES = {"shared-storage": "/workspace/shared-storage"}
GIVEN = {"notebook-name": "01_x", "url": "https://git.example/me/notebooks"}
OURS = {name: task for name, task in tekton.tasks().items() if "image-build" not in name}
STEPS = [(name, step["name"]) for name, task in OURS.items() for step in task["spec"]["steps"]]


def parse(arguments, monkeypatch, environment):
    """Return the parsed parameters of the innermost command; click raises for anything it does not know."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    context = cli.make_context("runner", list(arguments))
    command = cli
    while isinstance(command, click.Group):
        words = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, words)
        context = command.make_context(name, rest, parent=context)
    return context


def variables(step):
    return {one["name"]: one["value"] for one in step.get("env", []) if "value" in one}


def run_of(task, step_name, monkeypatch, **given):
    known = {param["name"] for param in task["spec"]["params"]}
    values = {key: value for key, value in GIVEN.items() if key in known} | given
    spec = tekton.filled(task, values, WORKSPACES)
    step = next(one for one in spec["steps"] if one["name"] == step_name)
    return parse(step["args"], monkeypatch, variables(step)), variables(step)


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_a_step_is_a_command_of_ours(name, step, monkeypatch):
    """With the default parameters each step is understood."""
    run_of(OURS[name], step, monkeypatch)


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_each_variable_belongs_to_an_option(name, step, monkeypatch):
    """No RUNNER_ variable of a step is misspelt: each one is read by an option of its command."""
    context, environment = run_of(OURS[name], step, monkeypatch)
    known = {
        f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
    }
    assert {name for name in environment if name.startswith("RUNNER_")} <= known


def test_empty_parameters_leave_the_plan_alone(monkeypatch):
    """Nothing but the mission's two parameters is given; all others are as if never named."""
    task = OURS["gpu-notebook-executor-task"]
    context, _ = run_of(task, "execute-notebook", monkeypatch, **{"min-gpu-memory-gb": "24"})
    given = context.params
    assert given["notebook"] == "01_x"
    assert given["min_gpu_memory_gb"] == 24.0
    for option in ("min_gpus", "timeout", "on_failure", "cell_timeout", "optional", "kernel", "cwd", "run_id"):
        assert given[option] is None, option
    assert given["parameters_yaml"] == ()
    assert given["secret_env"] == ()
    assert given["any_run"] is False


def test_parameters_reach_their_options(monkeypatch):
    """Booleans, lists and durations arrive as what they mean."""
    context, _ = run_of(
        OURS["gpu-notebook-executor-task"],
        "execute-notebook",
        monkeypatch,
        **{
            "optional": "true",
            "continue-on-failure": "false",
            "strict-release": "true",
            "on-failure": "hold=2h",
            "min-gpus": "2",
            "timeout": "90m",
            "secret-env": "HF_TOKEN OTHER",
            "env": "A=1 B=2",
            "parameters-yaml": "n_top_genes: 2000",
        },
    )
    given = context.params
    assert (given["optional"], given["continue_on_failure"], given["strict_release"]) == (True, False, True)
    assert (given["min_gpus"], given["timeout"], given["on_failure"]) == (2, 5400.0, "hold=2h")
    assert given["secret_env"] == ("HF_TOKEN", "OTHER")
    assert given["env"] == (("A", "1"), ("B", "2"))


def test_a_name_that_looks_like_an_option_stays_a_name(monkeypatch):
    """A hostile notebook name cannot switch an option on."""
    context, _ = run_of(
        OURS["gpu-notebook-executor-task"], "execute-notebook", monkeypatch, **{"notebook-name": "--trust-html"}
    )
    assert context.params["notebook"] == "--trust-html"
    assert context.params["trust_html"] is False


@pytest.mark.parametrize("pipeline", tekton.pipelines().values(), ids=tekton.pipelines())
def test_each_task_of_a_pipeline_is_understood(pipeline, monkeypatch):
    """The parameters that pipelines hand on are values that the commands take, arrays included."""
    defaults = {param["name"]: param.get("default", "x") for param in pipeline["spec"]["params"]}
    for task in tekton.pipeline_tasks(pipeline):
        target = OURS.get(task["taskRef"]["name"])
        if target is None:
            continue
        given = {}
        for param in task["params"]:
            value = param["value"]
            if isinstance(value, str):
                value = tekton.REFERENCE.sub(lambda m: defaults.get(m[1].removeprefix("params."), "uid"), value)
            given[param["name"]] = value
        for step in target["spec"]["steps"]:
            with monkeypatch.context() as patch:
                run_of(target, step["name"], patch, **given)


def test_the_cron_jobs_are_commands_of_ours(monkeypatch):
    """What the CronJobs call exists."""
    for _, job in tekton.of_kind("CronJob"):
        (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["runner"]
        parse(container["args"], monkeypatch, {})
