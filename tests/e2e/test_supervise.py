#!/usr/bin/env python3
"""supervise.sh runs a job until it is done: what it starts again, what never, and that it leaves nothing behind."""

import os
import re
import signal
import time
from pathlib import Path

import harness

SUPERVISE = harness.ROOT / "launch/supervise.sh"
PATIENCE = 90  # seconds; the machine may be busy


def shared_memory(job):
    """The files in /dev/shm that a job's ranks have in memory."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in job.pids().values())
    return set(re.findall(r"/dev/shm/(?:vader|sm)_segment\S*", maps))


class Supervised(harness.Case):
    def log(self, run="run"):
        return (self.folder / run / "supervise.log").read_text()

    def supervise(self, *args, **options):
        """supervise.sh OPTIONS..., its own words in the job's standard error."""
        env = {"MPIRUN": os.environ.get("MPIRUN", "mpirun"), **options.pop("env", {})}
        return self.start(*args, program=[str(SUPERVISE)], env=env, **options)

    def ends(self, job, status):
        job.wait(PATIENCE)
        self.assertEqual(job.status, status, job.text())
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())
        return job


class Decisions(Supervised):
    """What follows on which exit status. A stand-in for the program plays a list of ends: STATUS[+STEP], where STEP is
    the checkpoint that it leaves."""

    def play(self, ends, *options, status):
        (self.folder / "ends").write_text("\n".join(ends) + "\n")
        stand_in = self.folder / "stand_in"
        stand_in.write_text("""#!/bin/bash
cd "$(dirname "$0")" && mkdir -p run/checkpoints
echo "$*" >>calls
IFS=+ read -r status step < <(head -n 1 ends) && sed -i 1d ends
[ -z "$step" ] || ln -sfn "$(printf 'step_%08d.h5' "$step")" run/checkpoints/latest
exit "$status"
""")
        stand_in.chmod(0o755)
        for name in ("calls", "run/checkpoints/latest"):
            (self.folder / name).unlink(missing_ok=True)
        job = self.ends(self.supervise("--launcher", "env", "--backoff", "0", *options, stand_in, "train", "c.yaml",
                                       "--run-dir", self.folder / "run"), status)
        self.calls = (self.folder / "calls").read_text().splitlines()
        return job

    def test_finished_job_is_done(self):
        self.play(["0+8"], status=0)
        self.assertEqual(self.calls, [f"train c.yaml --run-dir {self.folder}/run --resume"])
        self.assertRegex(self.log(), r"(?m)^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ ended with exit status 0 .* step 8$")

    def test_failures_are_tried_again_until_it_is_done(self):
        self.play(["1+3", "137+3", "76+6", "0+8"], status=0)
        self.assertEqual(len(self.calls), 4)

    def test_retries_are_bounded_and_begin_anew_after_a_new_checkpoint(self):
        self.play(["1+3", "139", "139", "139+9", "1", "1", "1"], "--retries", "2", status=139)
        self.assertEqual(len(self.calls), 3)
        self.assertIn("giving up: 3 failures", self.log())
        self.play(["1+3", "139", "76+6", "1", "1+9", "134", "134", "0"], "--retries", "2", status=134)
        self.assertEqual(len(self.calls), 7)

    def test_wrong_use_and_damage_are_never_tried_again(self):
        for status in (2, 3):
            self.play([f"{status}+5", "0"], status=status)
            self.assertEqual(len(self.calls), 1)
            self.play(["1", str(status), "0"], status=status)
            self.assertEqual(len(self.calls), 2)

    def test_stopped_job_is_left_alone_unless_asked_for_until_done(self):
        self.play(["75+5", "0"], status=75)
        self.assertEqual(len(self.calls), 1)
        self.play(["75+5", "75+7", "0+8"], "--until-done", "--retries", "0", status=0)
        self.assertEqual(len(self.calls), 3)
        self.play(["75+5", "75", "75", "0"], "--until-done", "--retries", "1", status=75)
        self.assertEqual(len(self.calls), 3)

    def test_pause_doubles(self):
        job = self.play(["1", "1", "0"], "--backoff", "1", status=0)
        self.assertEqual(re.findall(r"in (\d+) s$", self.log(), re.M), ["1", "2"])
        self.assertGreater(job.seconds, 3)

    def test_request_during_a_pause_ends_it(self):
        self.play(["1"], "--retries", "0", status=1)
        (self.folder / "ends").write_text("1\n")
        job = self.supervise("--launcher", "env", "--backoff", "200", self.folder / "stand_in", "train", "c.yaml", "--run-dir",
                             self.folder / "run")
        end = time.monotonic() + 30
        while "in 200 s" not in self.log() and time.monotonic() < end:
            time.sleep(0.05)
        job.signal(signal.SIGTERM)
        self.ends(job, 75)
        self.assertLess(job.seconds, 60)

    def test_closed_streams_hang_nobody(self):
        run = self.folder / "run"
        closed = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "closed", SUPERVISE]
        job = self.start("--retries", 0, "-n", 1, "false", "train", "c.yaml", "--run-dir", run, program=closed)
        self.ends(job, 1)
        self.assertRegex(self.log(), "ended with exit status 1 after")

    def test_wrong_use_of_the_script_is_refused(self):
        program = str(harness.PROGRAM)
        for words, args in ((["--run-dir DIR"], ["-n", 2, program, "train", "c.yaml"]),
                            (["there is no program"], ["-n", 2, "nowhere", "train", "c.yaml", "--run-dir", "r"]),
                            (["leave it out"], ["-n", 2, program, "train", "c.yaml", "--run-dir", "r", "--resume"]),
                            (["goes with --hosts"], ["--shrink", "-n", 2, program, "train", "c.yaml", "--run-dir", "r"]),
                            (["launch/supervise.sh [OPTIONS]"], ["-n", 0, program, "train", "c.yaml"]),
                            (["launch/supervise.sh [OPTIONS]"], ["-n", 2, program, "eval", "c.yaml"]),
                            (["launch/supervise.sh [OPTIONS]"], ["--retries", "some", "-n", 2, program, "train", "c"]),
                            (["launch/supervise.sh [OPTIONS]"],
                             ["--backoff", "08", "-n", 2, program, "train", "c", "--run-dir", "r"])):
            job = self.ends(self.supervise(*args, cwd=self.folder), 2)
            for word in words:
                self.assertIn(word, job.stderr)


class Slurm(Supervised):
    """slurm.sbatch as the batch shell runs it, with stand-ins for Slurm's commands."""

    def submit(self, program, **slurm):
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        for tool in ("scontrol", "scancel"):
            (tools / tool).write_text(f"#!/bin/sh\necho {tool} $* >>{self.folder}/asked\n")
            (tools / tool).chmod(0o755)
        (self.folder / "program").write_text(f"#!/bin/bash\n{program}\n")
        (self.folder / "program").chmod(0o755)
        (self.folder / "asked").write_text("")
        return self.start("--launcher", "env", self.folder / "program", "train", "c.yaml", "--run-dir", self.folder / "run",
                          program=[str(harness.ROOT / "launch/slurm.sbatch")],
                          env={"PATH": f"{tools}:{os.environ['PATH']}", "SWITCHYARD_HOME": str(harness.ROOT),
                               "SLURM_JOB_ID": "12", **slurm})

    def asked(self, job, status):
        self.ends(job, status)
        return (self.folder / "asked").read_text()

    def test_signal_before_the_end_of_its_time_saves_and_queues_again(self):
        job = self.submit("trap 'exit 75' USR1; touch $(dirname $0)/ready; while :; do sleep 0.1; done")
        self.wait_for(self.folder / "ready")
        job.signal(signal.SIGUSR1)
        self.assertEqual(self.asked(job, 75), "scontrol requeue 12\n")

    def test_finished_job_is_not_queued_again_and_cancels_the_rest_of_its_array(self):
        self.assertEqual(self.asked(self.submit("exit 0"), 0), "")
        self.assertEqual(self.asked(self.submit("exit 0", SLURM_ARRAY_JOB_ID="11"), 0), "scancel --state=PENDING 11\n")
        self.assertEqual(self.asked(self.submit("exit 2", SLURM_ARRAY_JOB_ID="11"), 2), "scancel --state=PENDING 11\n")
        self.assertEqual(self.asked(self.submit("exit 75", SLURM_ARRAY_JOB_ID="11"), 75), "")


class Jobs(Supervised):
    def prepare(self, fault=None, *options, **train):
        self.cfg = self.config(parallel={"ep": 2}, train={"steps": 9, **train})
        return self.supervise("--backoff", "0", *options, "-n", 2, harness.PROGRAM, "train", self.cfg, "--run-dir",
                              self.folder / "run", fault=fault)

    def nothing_left(self, shared):
        self.assertTrue(shared)
        self.assertEqual([p for p in shared if os.path.exists(p)], [], "shared memory is left")

    def test_killed_ranks_are_started_again_and_the_run_is_the_undisturbed_one(self):
        """Each start dies at its fifth step, and a checkpoint of every third is there by then."""
        self.ends(self.prepare("train.step:5:kill:1"), 0)
        self.assertEqual(re.findall(r"status (\d+) .* step (\d+)$", self.log(), re.M), [("137", "3"), ("137", "6"), ("0", "9")])
        self.train_once(self.cfg, "whole", 2)
        self.same_records("run", "whole")

    def test_request_to_stop_saves_and_ends_and_a_second_script_is_refused(self):
        job = self.prepare("train.step:6:sleep=3")
        self.wait_for_steps(job, "run", 5)
        other = self.ends(self.prepare(), 2)
        self.assertIn("another supervise.sh looks after", other.stderr)
        job.signal(signal.SIGTERM)
        self.ends(job, 75)
        self.assertEqual(self.checkpoints("run")[-1], "step_%08d.h5" % self.metrics("run")[-1]["step"])
        self.ends(self.prepare(), 0)
        self.train_once(self.cfg, "whole", 2)
        self.same_records("run", "whole")

    def test_script_that_is_killed_takes_its_job_along(self):
        job = self.prepare("train.step:5:sleep=100")
        self.wait_for_steps(job, "run", 4)
        shared = shared_memory(job)
        self.assertEqual(len(job.pids()), 2)
        job.signal(signal.SIGKILL)
        self.assertEqual(job.ranks_after(10), {}, "ranks outlive the script")
        job.wait()
        self.ends(self.prepare(), 0)
        self.nothing_left(shared)

    def test_mpirun_that_is_killed_leaves_no_shared_memory(self):
        (self.folder / "hosts").write_text("localhost slots=2\n")
        job = self.prepare("train.step:5:sleep=3:1", "--retries", "1", "--hosts", self.folder / "hosts")
        self.wait_for_steps(job, "run", 4)
        shared = shared_memory(job)
        jobs = (self.folder / "run/supervise.jobs").read_text().split()  # by which other hosts are cleaned
        self.assertEqual([path.split(".")[-2] for path in sorted(shared)], jobs * 2)
        mpirun = [int(p) for p in os.listdir("/proc") if p.isdigit() and is_child(int(p), job.process.pid)]
        self.assertEqual(len(mpirun), 1)
        os.kill(mpirun[0], signal.SIGKILL)
        self.ends(job, 0)
        self.assertIn("ended with exit status 137", self.log())
        self.nothing_left(shared)
        self.assertEqual(list(Path(os.environ.get("TMPDIR", "/tmp")).glob(f"ompi.*/pid.{mpirun[0]}")), [])


def is_child(pid, parent):
    """Is this the mpirun that the script started? That of Open MPI 5 becomes prterun."""
    try:
        comm, state = re.match(r"\d+ \((.*)\) (.*)", Path(f"/proc/{pid}/stat").read_text(), re.S).groups()
    except OSError:
        return False
    return comm in ("mpirun", "prterun") and int(state.split()[1]) == parent


if __name__ == "__main__":
    harness.main()
