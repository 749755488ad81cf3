"""What the end-to-end tests share: a job on some ranks, what it must say when it fails, run directories, token files.

Every test drives the real program. SWITCHYARD names it; MPIRUN may name another mpirun. SY_TEST_BACKEND names what the
tests' configurations compute on: cpu, a GPU (cuda), or its emulation (cuda_emulated, in the program SWITCHYARD_EMULATED).
"""

import hashlib
import html.parser
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BACKEND = os.environ.get("SY_TEST_BACKEND") or "cpu"
EMULATED = os.environ.get("SWITCHYARD_EMULATED")
PROGRAM = EMULATED if BACKEND == "cuda_emulated" else os.environ.get("SWITCHYARD", str(ROOT / "build/launch/switchyard"))
NAMES = {os.path.basename(program) for program in (PROGRAM, EMULATED) if program}
LONG = bool(os.environ.get("SY_TEST_LONG"))
DEADLINE = 60 * (4 if LONG or BACKEND == "cuda_emulated" else 1)  # seconds for any one job: beyond it, it hangs
UNSET = object()  # in Case.config: leave this key out

MPI_ENV = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMP_NUM_THREADS": "1",
}
# All ranks on one GPU.
GPU_ENV = {"SY_SHARE_GPU": "1", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
if BACKEND != "cuda":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # `auto` is the CPU on every machine


class Job:
    """The program on `ranks` ranks (0: without mpirun). Its processes are known by a mark in their environment."""

    def __init__(self, args, ranks=0, fault=None, env=None, cwd=None, preexec=None, program=None, backend=BACKEND):
        self.mark = "SY_E2E_JOB=" + uuid.uuid4().hex
        self.ranks = ranks
        program = program or [EMULATED if backend == "cuda_emulated" else PROGRAM]
        shared = GPU_ENV if backend.startswith("cuda") else {}
        self.env = {**os.environ, **MPI_ENV, **shared, **(env or {}), "SY_E2E_JOB": self.mark.split("=")[1]}
        for name in ("SY_FAULT", "SY_IO_FAULTS"):
            self.env.pop(name, None)
        if fault:
            self.env["SY_FAULT"] = fault
        mpirun = [os.environ.get("MPIRUN", "mpirun"), "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        command = (mpirun if ranks else []) + program + [a if isinstance(a, bytes) else str(a) for a in args]
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.begun = time.monotonic()
        # restore_signals=False: a file size limit shows as EFBIG, as a full disk shows as ENOSPC
        self.process = subprocess.Popen(command, env=self.env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=self.out,
                                        stderr=self.err, restore_signals=False, preexec_fn=preexec,
                                        start_new_session=True)

    def pids(self):
        """{rank: pid} of the ranks that are still there, zombies not counted."""
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    environ = Path("/proc", entry, "environ").read_bytes().decode(errors="replace").split("\0")
                    exe = os.readlink(f"/proc/{entry}/exe")
                except OSError:
                    continue
                if self.mark in environ and os.path.basename(exe).split(" ")[0] in NAMES:
                    rank = [e.split("=")[1] for e in environ if e.startswith("OMPI_COMM_WORLD_RANK=")]
                    found[int(rank[0]) if rank else 0] = int(entry)
        return found

    def kill_rank(self, rank, number=signal.SIGKILL):
        os.kill(self.pids()[rank], number)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=DEADLINE):
        try:
            self.status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            stuck, text = self.pids(), self.text()
            self.destroy()
            raise AssertionError(f"the job hangs after {seconds} s; ranks {sorted(stuck)} are there\n" + text) from None
        self.seconds = time.monotonic() - self.begun
        self.left = self.ranks_after(2)
        self.stdout, self.stderr = self._read(self.out), self._read(self.err)
        self.out.seek(0)
        self.stdout_bytes = self.out.read()
        self.out.close(), self.err.close()
        return self

    def ranks_after(self, seconds):
        """The ranks that are still there, given so much time to go."""
        end = time.monotonic() + seconds
        while self.pids() and time.monotonic() < end:
            time.sleep(0.05)
        return self.pids()

    def destroy(self):
        for pid in list(self.pids().values()):
            os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close(), self.err.close()

    @staticmethod
    def _read(file):
        file.seek(0)
        return file.read().decode(errors="replace")

    def text(self):
        if not self.out.closed:
            self.stdout, self.stderr = self._read(self.out), self._read(self.err)
        return f"$ {' '.join(map(str, self.process.args))}\n{self.stdout[-2000:]}{self.stderr[-4000:]}"

    def errors(self):
        return [line for line in self.stderr.splitlines() if line.startswith(("error: ", "error ["))]


class Case(unittest.TestCase):
    """A folder of its own, small token files, and the questions every test asks."""

    backend = BACKEND

    @classmethod
    def setUpClass(cls):
        cls.home = Path(tempfile.mkdtemp(prefix="switchyard-e2e-"))
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        prose = (ROOT / "data/samples/prose.txt").read_bytes()
        write_tokens(cls.home / "text", [prose[:40000], prose[40000:60000]])
        write_tokens(cls.home / "held_out", [prose[60000:63000]])

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(dir=self.home))
        self.jobs = []

    def tearDown(self):
        for job in self.jobs:
            job.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- configurations ----

    def config(self, name="config.yaml", **sections):
        """A file with the small configuration of these tests, section by section changed."""
        config = {
            "device": {"backend": self.backend, "threads": 1},
            "model": {"vocab_size": 256, "hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_hidden": 48,
                      "seq_len": 32},
            "moe": {"experts": 4, "top_k": 2},
            "parallel": {},
            "optim": {"lr": 0.01, "warmup_steps": 2, "decay_steps": 20},
            "train": {"steps": 8, "global_batch": 4, "micro_batch": 1, "checkpoint_every": 3, "checkpoint_keep": 0},
            "data": {"tokenizer": "bytes", "train": [{"path": str(self.home / "text")}]},
        }
        for section, keys in sections.items():
            config.setdefault(section, {}).update(keys)
        if config["device"]["backend"].startswith("cuda"):
            config["device"].setdefault("precision", "fp32")  # as on the CPU
        for keys in config.values():
            for key in [k for k, value in keys.items() if value is UNSET]:
                del keys[key]
        path = self.folder / name
        path.write_text(json.dumps(config, indent=1) + "\n")  # JSON is YAML
        return path

    # ---- jobs ----

    def with_device(self, args):
        """What reads a run's configuration reads all but its device."""
        if self.backend == "cpu" or args[0] not in ("eval", "generate") or any("device." in str(a) for a in args):
            return args
        return (*args, "--set", f"device.backend={self.backend}", "--set", "device.precision=fp32")

    def start(self, *args, **options):
        job = Job(self.with_device(args), backend=self.backend, **options)
        self.jobs.append(job)
        return job

    def job(self, *args, seconds=DEADLINE, **options):
        return self.start(*args, **options).wait(seconds)

    def succeeds(self, *args, **options):
        job = self.job(*args, **options)
        self.assertEqual(job.status, 0, job.text())
        self.assertEqual(job.errors(), [], job.text())
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())
        return job

    def fails(self, status, words, *args, **options):
        """The job ends with this status, in one error line that has these words, on every rank."""
        job = self.job(*args, **options)
        self.check_failure(job, status, words)
        return job

    def check_failure(self, job, status, words):
        self.assertEqual(job.status, status, job.text())
        self.assertEqual(len(job.errors()), 1, "one error line\n" + job.text())
        for word in words if isinstance(words, list) else [words]:
            self.assertIn(str(word), job.errors()[0])
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())

    def train(self, config, run, *args, **options):
        return self.succeeds("train", config, "--run-dir", self.folder / run, *args, **options)

    def train_once(self, config, run, ranks):
        """A run that several tests of a class compare with: the first that asks trains it."""
        text = config.read_text().replace(str(self.folder), "")
        (self.folder / run).unlink(missing_ok=True)  # that of another configuration
        kept = self.home / f"{run}_{ranks}_{hashlib.sha256(text.encode()).hexdigest()}"
        if not kept.exists():
            self.train(config, run, ranks=ranks)
            (self.folder / run).rename(kept)
        (self.folder / run).symlink_to(kept)

    # ---- run directories ----

    def metrics(self, run):
        """The records of metrics.jsonl, numbers as they are written, without what depends on the clock."""
        text = (self.folder / run / "metrics.jsonl").read_text()
        self.assertTrue(text.endswith("\n") or not text, "the last line is not whole")
        records = [json.loads(line, parse_float=str) for line in text.splitlines()]
        timed = ("time_s", "perf/", "mem/")
        return [{k: v for k, v in r.items() if not k.startswith(timed)} for r in records]

    def losses(self, run):
        return [float(r["train/loss"]) for r in self.metrics(run)]

    def same_records(self, run, reference):
        """Bit for bit, without a gap and without a repeat."""
        ours, theirs = self.metrics(run), self.metrics(reference)
        self.assertEqual([r["step"] for r in ours], list(range(1, len(theirs) + 1)))
        for a, b in zip(ours, theirs):
            self.assertEqual(a, b, f"step {b['step']} of {run} and {reference}")

    def near(self, ours, theirs, relative):
        self.assertEqual(len(ours), len(theirs))
        for i, (a, b) in enumerate(zip(ours, theirs)):
            self.assertLessEqual(abs(a - b), relative * abs(b), f"number {i + 1}: {a} and {b}")

    def checkpoints(self, run):
        return sorted(p.name for p in (self.folder / run / "checkpoints").iterdir())

    def wait_for_steps(self, job, run, n, seconds=30):
        """Until n steps stand in metrics.jsonl."""
        path = self.folder / run / "metrics.jsonl"
        end = time.monotonic() + seconds
        while not path.exists() or path.read_bytes().count(b"\n") < n:
            self.assertIsNone(job.process.poll(), "the job ended early\n" + job.text())
            self.assertLess(time.monotonic(), end, f"no step {n} after {seconds} s\n" + job.text())
            time.sleep(0.002)

    def wait_for(self, path, seconds=30):
        end = time.monotonic() + seconds
        while not os.path.lexists(path):
            self.assertLess(time.monotonic(), end, f"no {path} after {seconds} s")
            time.sleep(0.002)

    def rewind(self, run, to, step):
        """A copy of a run directory as a kill -9 after `step`'s checkpoint leaves it: a later line, half a line, a lock."""
        source, target = self.folder / run, self.folder / to
        shutil.copytree(source, target, symlinks=True)
        for path in (target / "checkpoints").glob("step_*.h5"):
            if int(path.stem.split("_")[1]) > step:
                path.unlink()
        latest = target / "checkpoints/latest"
        latest.unlink()
        latest.symlink_to(f"step_{step:08d}.h5")
        (target / "checkpoints" / f".step_{step + 1:08d}.h5.tmp").write_bytes(b"half a checkpoint")
        lines = (target / "metrics.jsonl").read_text().splitlines(keepends=True)
        late = '{"step":%d,"tokens":0}\n{"step":%d,"tok' % (step + 1, step + 2)
        (target / "metrics.jsonl").write_text("".join(lines[:step]) + late)
        (target / "lock").write_text("host gone\npid 4000000\nsince 2020-01-01T00:00:00Z\n")
        return target


class LayoutCase(Case):
    """Runs of one configuration at several layouts, compared."""

    def losses_at(self, ranks, ep, zero=1, **sections):
        self.n_runs = getattr(self, "n_runs", 0) + 1
        name = f"run{self.n_runs}_n{ranks}_ep{ep}_zero{zero}"
        sections.setdefault("parallel", {}).update({"ep": ep, "zero": zero})
        self.train(self.config(f"{name}.yaml", **sections), name, ranks=ranks)
        records = self.metrics(name)
        for r in records:
            self.assertTrue(math.isfinite(float(r["train/loss"])) and math.isfinite(float(r["train/grad_norm"])), r)
        return records

    def numbers(self, records, *keys):
        return [float(r[k]) for r in records for k in keys]

    def agree(self, relative, layouts, steps, n_compared=None, **sections):
        sections["moe"] = {"experts": 12, **sections.get("moe", {})}
        sections["train"] = {"steps": steps, "global_batch": 5, "checkpoint_every": 0, **sections.get("train", {})}
        keys = ("train/loss", "train/grad_norm", "moe/aux_loss", "moe/z_loss", "moe/drop_fraction")
        one = self.losses_at(0, 1, **sections)[:n_compared]
        for ranks, ep, zero in layouts:
            with self.subTest(ranks=ranks, ep=ep, zero=zero):
                other = self.losses_at(ranks, ep, zero, **sections)[:n_compared]
                for a, b in zip(self.numbers(other, *keys), self.numbers(one, *keys), strict=True):
                    self.assertLessEqual(abs(a - b), relative * max(abs(b), 1e-3))
                for key in [k for k in one[0] if k.endswith("/load")]:
                    self.assertEqual([r[key] for r in other], [r[key] for r in one])


def has_gpu():
    """Is there a driver and a GPU of NVIDIA?"""
    return Path("/dev/nvidia0").exists()


def snapshot(folder):
    """What lies in a folder: {path: digest or link}, without the lock, which belongs to whoever runs."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file() and path.name != "lock":
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def write_tokens(prefix, documents, code=8):
    """A Megatron indexed file: MMIDIDX, version 1, type code (8: uint16, 4: int32), lengths, byte pointers, documents."""
    item = {8: "H", 4: "i"}[code]
    arrays = [struct.pack(f"<{len(d)}{item}", *d) for d in documents]
    pointers = [sum(len(a) for a in arrays[:i]) for i in range(len(arrays))]
    n = len(documents)
    Path(f"{prefix}.bin").write_bytes(b"".join(arrays))
    Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, n, n + 1)
        + struct.pack(f"<{n}i", *(len(d) for d in documents)) + struct.pack(f"<{n}q", *pointers)
        + struct.pack(f"<{n + 1}q", *range(n + 1)))
    return prefix


class Page(html.parser.HTMLParser):
    """Are all tags closed in order, and is nothing fetched from elsewhere?"""

    VOID = {"meta", "br", "hr", "img", "link", "input", "path", "line", "rect", "circle", "polyline", "polygon", "use"}

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.tags = [], [], set()
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("#", "data:")):
                self.faults.append(f"<{tag} {name}={value}> points outside the page")

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes <{self.open[-1] if self.open else ''}>")
        else:
            self.open.pop()


def main():
    unittest.main(verbosity=2, failfast=bool(os.environ.get("SY_FAILFAST")))
