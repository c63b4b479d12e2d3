"""The launch scripts, with stand-ins for the virtual environment's Python, SLURM and Docker."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def clone(tmp_path):
    """The scripts and requirements beside a .venv whose programs tell their arguments."""
    names = ("launch", "tests/requirements.txt", "tests/requirements-ci.txt", "requirements.txt")
    for name in names:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True, parents=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target)
        else:
            shutil.copy(ROOT / name, target)
    for tool in ("python", "ruff", "mypy"):
        path = tmp_path / ".venv" / "bin" / tool
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {tool} "$@"\n')
        path.chmod(0o755)
    return tmp_path


SCRIPTS = [*(ROOT / "launch").glob("*.sh"), *(ROOT / "launch").glob("*.sbatch"), ROOT / ".ci/run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script):
    beside = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not (shellcheck := shutil.which("shellcheck", path=beside)):
        pytest.skip("no shellcheck: on PyPI there is none for this machine")
    command = [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def call(script, *arguments, cwd):
    done = subprocess.run(
        ["bash", script, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


MAIN = "python -m lr_order_jax.main"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], f"{MAIN} --config=configs/sweep.py"),
        (["--workdir=a b"], f"{MAIN} --config=configs/sweep.py --workdir=a b"),
        (["--config=x.py:y"], f"{MAIN} --config=x.py:y"),
        (["--config", "x.py"], f"{MAIN} --config x.py"),
        (["--config.d=3"], f"{MAIN} --config=configs/sweep.py --config.d=3"),
    ],
)
def test_local_passes_its_arguments_on_and_config_replaces_the_default(clone, arguments, wanted):
    assert call(clone / "launch" / "local.sh", *arguments, cwd="/")[-1] == wanted


def test_pip_runs_only_when_requirements_changed(clone):
    script = clone / "launch" / "local.sh"
    first = call(script, cwd=clone)
    assert "python -m pip install" in first[0]
    assert len(call(script, cwd=clone)) == 1
    assert "-r tests/requirements.txt" in call(clone / "launch" / "test.sh", cwd=clone)[0]
    assert len(call(script, cwd=clone)) == 1  # the test script's set-up does not undo it
    (clone / "requirements.txt").write_text("numpy")
    assert "python -m pip install" in call(script, cwd=clone)[0]


def test_test_runs_every_check_and_passes_arguments_to_pytest(clone):
    lines = call(clone / "launch" / "test.sh", "-m", "not slow", cwd="/")
    assert lines[-4:] == [
        "ruff format --check .",
        "ruff check .",
        "mypy",
        "python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m not slow",
    ]


def on_a_gpu(clone, otherwise):
    """A Python that says that JAX runs on a GPU, and does something else when run with -m."""
    python = f'#!/bin/sh\n[ "$1" = -c ] && echo gpu && exit\n{otherwise}\n'
    (clone / ".venv" / "bin" / "python").write_text(python)


def test_figure_3_is_refused_without_a_gpu(clone):
    (clone / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho cpu\n")
    done = subprocess.run(
        ["bash", clone / "launch" / "figure3_gpu.sh"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: JAX runs on cpu here, not on a GPU\n")


def test_figure_3_on_a_gpu_passes_its_arguments_on(clone):
    on_a_gpu(clone, 'echo python "$@"')
    lines = call(clone / "launch" / "figure3_gpu.sh", "--config.compute_dtype=bfloat16", cwd="/")
    wanted = f"{MAIN} --config=configs/patch_cifar.py --config.num_seeds=1 --workdir=runs/figure3"
    assert lines[0] == f"{wanted} --config.compute_dtype=bfloat16"
    assert lines[1] == "done: runs/figure3/figures/patch_accuracy.png"


def test_figure_3_on_a_gpu_stops_after_its_slice_and_says_so(clone):
    on_a_gpu(clone, "exec sleep 60")
    done = subprocess.run(
        ["bash", clone / "launch" / "figure3_gpu.sh"],
        env={"LIMIT": "1", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (75, "not finished: run the same command again\n")


def task(i=3, count=4, **changes):
    """The environment of a task of a job array."""
    values = {"ID": i, "COUNT": count, "MIN": 1, "MAX": count} | changes
    array = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}
    return {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "SLURM_ARRAY_JOB_ID": "70"} | array


def in_slurm(clone, environment, *arguments):
    command = ["bash", "launch/slurm_array.sbatch", *arguments]
    return subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "--config=configs/sweep.py --config.shard=3/4 --config.d=3"),
        ({"CONFIG": "x.py:y"}, "--config=x.py:y --config.shard=3/4 --config.d=3"),
        (
            {"WORKDIR": "/a b"},
            "--config=configs/sweep.py --config.shard=3/4 --workdir=/a b/shard-3-of-4 --config.d=3",
        ),
    ],
)
def test_each_task_of_an_array_runs_its_shard(clone, variables, wanted):
    done = in_slurm(clone, task() | variables, "--config.d=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{MAIN} {wanted}\n", "")


@pytest.mark.parametrize(
    "environment",
    [
        {"PATH": "/usr/bin:/bin"},  # no array
        task(MIN=0, MAX=3),
        task(MIN=3, MAX=6),
        task(MAX=7),  # gaps
    ],
)
def test_an_array_that_is_not_one_to_n_is_refused(clone, environment):
    done = in_slurm(clone, environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: submit a job array 1-N without gaps: sbatch --array=")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("sent", "run_ends_with", "wanted"),
    [
        (signal.SIGUSR1, 143, (0, "saved\nscontrol requeue 70_3\n")),  # its time is nearly up
        (signal.SIGUSR1, 0, (0, "saved\n")),  # it had all but ended
        (signal.SIGUSR1, 1, (1, "saved\n")),
        (signal.SIGTERM, 143, (143, "saved\n")),  # cancelled: all processes are told
    ],
)
def test_a_task_whose_time_is_nearly_up_is_queued_again(clone, sent, run_ends_with, wanted):
    stubs = {
        ".venv/bin/python": f"trap 'sleep 0.3; echo saved; exit {run_ends_with}' TERM\n"
        "echo starts\nwhile :; do sleep 0.1; done",
        "bin/scontrol": 'echo scontrol "$@"',
    }
    for name, text in stubs.items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_text(f"#!/bin/sh\n{text}\n")
        (clone / name).chmod(0o755)
    environment = task() | {"PATH": f"{clone}/bin:/usr/bin:/bin"}
    job = subprocess.Popen(
        ["bash", "launch/slurm_array.sbatch"],
        cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert job.stdout.readline() == "starts\n"
    if sent == signal.SIGTERM:
        os.killpg(job.pid, sent)
    else:
        job.send_signal(sent)
    told, _ = job.communicate(timeout=30)
    assert (job.returncode, told) == wanted


def dockerfile():
    """The arguments of each kind of line of launch/Dockerfile."""
    lines = (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    kinds = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return {kind: [rest for k, _, rest in kinds if k == kind] for kind, _, _ in kinds}


@pytest.mark.parametrize("extra", [None, "cuda13"])
def test_the_image_has_the_jax_that_is_asked_for(clone, extra):
    (default,) = dockerfile()["ARG"]
    environment = dict([default.split("=")]) | {"PATH": f"{clone}/.venv/bin"}
    if extra:
        environment["JAX"] = extra
    (clone / ".venv" / "bin" / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (clone / ".venv" / "bin" / "pip").chmod(0o755)
    (line,) = dockerfile()["RUN"]
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=environment, capture_output=True, text=True, check=True
    )
    wanted = f"install --no-cache-dir -r requirements.txt jax[{extra or 'cpu'}]\n"
    assert done.stdout == wanted


@pytest.mark.slow
def test_the_files_of_the_image_are_enough_for_its_command(tmp_path):
    for line in dockerfile()["COPY"]:
        source, target = line.split()
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target)
        else:
            shutil.copy(ROOT / source, tmp_path / target)
    (entry,) = dockerfile()["ENTRYPOINT"]
    _, *arguments = json.loads(entry)
    command = [sys.executable, *arguments, "--config=configs/sweep.py:smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"results: runs/sweep-smoke-\w+/results.nc", done.stdout)


def stub(clone, name, text):
    """A program of this name on the PATH that `stubbed` gives, as a shell script."""
    path = clone / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def stubbed(clone, **variables):
    return {"PATH": f"{clone}/bin:/usr/bin:/bin", "HOME": "/tmp"} | variables


def told_by(clone, script, *arguments, environment):
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=clone, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


TOLD = 'echo "$(basename "$0")" "$@"'


@pytest.mark.parametrize(
    ("variables", "rest"),
    [
        ({}, "--config=configs/sweep.py --config.distributed=true --config.d=3"),
        (
            {"CONFIG": "x.py:y", "WORKDIR": "/a b"},
            "--config=x.py:y --config.distributed=true --workdir=/a b --config.d=3",
        ),
    ],
)
def test_several_hosts_of_slurm_run_one_command(clone, variables, rest):
    stub(clone, "srun", TOLD)
    environment = stubbed(clone, SLURM_JOB_ID="7", **variables)
    done = told_by(clone, "slurm_multihost.sbatch", "--config.d=3", environment=environment)
    wanted = f"srun --kill-on-bad-exit=1 --wait=60 .venv/bin/{MAIN} {rest}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, wanted, "")


def test_outside_of_slurm_it_is_refused(clone):
    done = told_by(clone, "slurm_multihost.sbatch", environment=stubbed(clone))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: submit it to SLURM: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "line"),
    [(137, "error: a process ended with status 137; the same command continues\n"), (2, "")],
)
def test_a_lost_host_is_told(clone, status, line):
    stub(clone, "srun", f"exit {status}")
    environment = stubbed(clone, SLURM_JOB_ID="7")
    done = told_by(clone, "slurm_multihost.sbatch", environment=environment)
    assert (done.returncode, done.stderr) == (status, line)


def test_several_hosts_whose_time_is_nearly_up_are_queued_again(clone):
    stub(
        clone,
        "srun",
        "trap 'echo saved; exit 143' TERM\necho starts $$\nwhile :; do sleep 0.1; done",
    )
    stub(clone, "scancel", 'echo scancel "$@"\nkill -TERM "$(cat srun)"')
    stub(clone, "scontrol", TOLD)
    job = subprocess.Popen(
        ["bash", "launch/slurm_multihost.sbatch"],
        cwd=clone, env=stubbed(clone, SLURM_JOB_ID="7"), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    (clone / "srun").write_text(job.stdout.readline().split()[1])
    job.send_signal(signal.SIGUSR1)
    told, _ = job.communicate(timeout=30)
    assert (job.returncode, told) == (
        0,
        "scancel --signal=TERM 7\nsaved\nscontrol requeue 7\n",
    )


TPUS = "gcloud compute tpus"


def on_tpu(clone, *arguments, **variables):
    """What the cloud's client is called with by launch/tpu_vm.sh, a line a call."""
    stub(clone, "gcloud", 'printf "%s" "gcloud"; printf " %s" "$@"; echo')
    stub(clone, "git", 'for a; do case $a in --output=*) : >"${a#--output=}";; esac; done')
    done = told_by(clone, "tpu_vm.sh", *arguments, environment=stubbed(clone, **variables))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_slice_is_asked_for_and_deleted(clone):
    create = f"{TPUS} queued-resources create lr-order-jax --node-id=lr-order-jax "
    create += "--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite"
    assert on_tpu(clone, "create").startswith(f"{create} --zone=us-west4-a\n")
    told = on_tpu(clone, "create", NAME="n", ACCELERATOR="v6e-8", RUNTIME="r", ZONE="z", SPOT="1")
    assert told.startswith(
        f"{TPUS} queued-resources create n --node-id=n --accelerator-type=v6e-8 "
        "--runtime-version=r --spot --zone=z\n"
    )
    deleted = f"{TPUS} queued-resources delete lr-order-jax --force --zone=us-west4-a\n"
    assert on_tpu(clone, "delete") == deleted


def test_all_workers_of_a_slice_run_one_command(clone):
    told = on_tpu(clone, "run", "--config=configs/sweep.py", "--workdir=a b")
    copy, *install, run, _ = re.split(r"(?<=--zone=us-west4-a)\n", told)
    assert re.fullmatch(
        rf"{TPUS} tpu-vm scp \S+/lr_order_jax.tar lr-order-jax:lr_order_jax.tar --worker=all .*",
        copy,
    )
    assert "--worker=all" in install[0]
    assert '-r requirements.txt "jax[tpu]"' in install[0]
    assert run == (
        f"{TPUS} tpu-vm ssh lr-order-jax --worker=all --command=cd lr_order_jax && "
        rf".venv/bin/{MAIN} --config=configs/sweep.py --workdir=a\ b --config.distributed=true "
        "--zone=us-west4-a"
    )
    told = on_tpu(clone, "run", "--config=configs/sweep.py", SHARE="10.0.0.2:/runs")
    mount = "sudo mount -t nfs 10.0.0.2:/runs runs && sudo chmod 1777 runs"
    assert mount in told
    assert told.index(mount) < told.index("lr_order_jax.main --config=configs/sweep.py")
    fetched = f"{TPUS} tpu-vm scp --recurse lr-order-jax:lr_order_jax/runs . --worker=0"
    assert on_tpu(clone, "fetch").startswith(fetched)


@pytest.mark.parametrize("arguments", [(), ("start",)])
def test_a_slice_cannot_do_other_things(clone, arguments):
    done = told_by(clone, "tpu_vm.sh", *arguments, environment=stubbed(clone))
    assert done.returncode == 2
    assert done.stderr.endswith(": must be create, run, fetch or delete\n")


@pytest.mark.parametrize("arguments", [(), ("--config=x.py",), ("0",)])
def test_the_number_of_processes_comes_first(clone, arguments):
    done = told_by(clone, "processes.sh", *arguments, environment=stubbed(clone))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: name the number of processes first: ")


def test_each_process_is_told_which_it_is(clone):
    (clone / ".venv/bin/python").write_text(
        '#!/bin/sh\n[ "$1" = -c ] && echo 1234 && exit\n'
        'echo "$JAX_PROCESS_ID/$JAX_NUM_PROCESSES $JAX_COORDINATOR_ADDRESS'
        ' $JAX_LOCAL_DEVICE_IDS" "$@"\n'
    )
    done = told_by(
        clone, "processes.sh", "2", "--config=x.py", environment=stubbed(clone, GPUS_EACH="2")
    )
    assert (done.returncode, done.stderr) == (0, "")
    rest = "-m lr_order_jax.main --config=x.py --config.distributed=true"
    assert sorted(done.stdout.splitlines()) == [
        f"0/2 127.0.0.1:1234 0,1 {rest}",
        f"1/2 127.0.0.1:1234 2,3 {rest}",
    ]


@pytest.mark.parametrize(
    ("arguments", "variables", "line"),
    [
        (("2",), {}, "--config is missing: launch/processes.sh 2 --config=configs/sweep.py"),
        (("2", "--config=x"), {"PYTHON": "nopython"}, "PYTHON=nopython: there is no such program"),
        (("2", "--config=x"), {"PYTHON": "false"}, "PYTHON=false: is no Python that runs"),
        (("2", "--config=x"), {"GPUS_EACH": "x"}, "GPUS_EACH=x: must be a whole number from 1"),
        (("2", "--config=x"), {"JAX_COORDINATOR_ADDRESS": "h"}, "JAX_COORDINATOR_ADDRESS=h: must"),
    ],
)
def test_what_no_process_can_be_started_with_is_one_line(clone, arguments, variables, line):
    done = told_by(clone, "processes.sh", *arguments, environment=stubbed(clone, **variables))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


def of_processes(clone, count, body):
    """What the launcher tells of processes that are a shell script."""
    text = f'#!/bin/sh\n[ "$1" = -c ] && echo 1234 && exit\n{body}\n'
    (clone / ".venv/bin/python").write_text(text)
    return told_by(clone, "processes.sh", str(count), "--config=x", environment=stubbed(clone))


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (
            "exit 3",
            3,
            r"error: of 8 processes ended (process \d with status 3(, |; )){8}the same .*",
        ),
        ("kill -INT $$", 130, ""),
        ('echo "error: x" >&2; exit 2', 2, r"(error: x\s?){8}"),
        ('[ "$JAX_PROCESS_ID" != 5 ] || exit 2', 2, "error: of 8 .* process 5 with status 2"),
    ],
)
def test_processes_that_end_at_once_are_all_seen(clone, body, status, told):
    done = of_processes(clone, 8, body)
    assert done.returncode == status
    assert re.fullmatch(told, done.stderr.strip())


@pytest.mark.slow
def test_a_process_that_is_lost_while_others_wait_is_told(clone):
    done = of_processes(clone, 2, '[ "$JAX_PROCESS_ID" != 1 ] || exit 3\nsleep 8')
    assert done.returncode == 3
    first, last = done.stderr.splitlines()
    assert first.startswith("ended: process 1 with status 3; the others end as they notice")
    assert last.startswith("error: of 2 processes ended process 1 with status 3; the same command")
