#!/usr/bin/env python3
"""doctor: what it finds wrong is wrong, comes with a mend, and makes it end with 1."""

import json
import os
import re
import resource
import signal
import subprocess
import unittest
from pathlib import Path

import harness


def limited(what, most):
    """As a shell starts it: a file that grows beyond its limit brings a signal."""
    return lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_DFL), resource.setrlimit(what, (most, most)))


def mounted(command, *program):
    """The program with mounts of its own."""
    return ["unshare", "--mount", "bash", "-c", command + ' && exec "$@"', "-", *program]


NO_MOUNTS = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0


class Doctor(harness.Case):
    def doctor(self, *args, status=None, **options):
        """Its findings: {level: [finding]}. The exit status says whether there are problems."""
        job = self.job("doctor", "--json", "--run-dir", self.folder, *args, **options)
        self.assertIn(job.status, (0, 1), job.text())
        self.assertEqual(job.errors(), [], job.text())
        answer = json.loads(job.stdout)
        found = {level: [f for f in answer["findings"] if f["level"] == level] for level in ("ok", "note", "problem")}
        self.assertEqual(job.status, 1 if found["problem"] else 0)
        self.assertEqual(len(answer["findings"]), sum(map(len, found.values())))
        for finding in found["note"] + found["problem"]:
            self.assertTrue(finding["mend"], finding)
        self.hosts = answer["hosts"]
        return found

    def finds(self, found, level, topic, words):
        hits = [f for f in found[level] if f["topic"] == topic and words in f["text"]]
        self.assertEqual(len(hits), 1, f"{level} {topic} '{words}' in {found}")
        return hits[0]

    def test_every_topic_has_a_finding_and_nothing_is_left_behind(self):
        found = self.doctor(ranks=2)
        topics = {f["topic"] for level in found.values() for f in level}
        self.assertEqual(topics, {"mpi", "libraries", "gpus", "hosts", "cores", "memory", "limits", "fabric", "network", "files",
                                  "pairs"})
        self.assertEqual(self.hosts, [{"name": os.uname().nodename, "ranks": 2}])
        self.finds(found, "ok", "pairs", "on one host:")
        self.finds({"any": found["ok"] + found["note"]}, "any", "files", "written and synced")  # a busy disk is slow
        self.finds(found, "ok", "files", "locks work")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_text_and_json_say_the_same(self):
        job = self.job("doctor", "--run-dir", self.folder / "not/yet/there")
        self.assertEqual(list(self.folder.iterdir()), [])
        found = self.doctor()
        self.assertIn(f"\n{len(found['problem'])} problem", job.stdout)
        for level in found.values():
            for finding in level:
                words = re.sub(r"[0-9.]+", "#", finding["text"])  # figures differ from call to call
                self.assertIn(words, re.sub(r"[0-9.]+", "#", job.stdout))
        self.assertEqual(self.hosts[0]["ranks"], 1)

    def test_limits_that_stop_a_job_are_problems(self):
        found = self.doctor(ranks=2, preexec=limited(resource.RLIMIT_NOFILE, 100))
        self.assertIn("ulimit -n", self.finds(found, "problem", "limits", "100 open files are allowed")["mend"])
        found = self.doctor(preexec=limited(resource.RLIMIT_FSIZE, 100 << 20))
        self.finds(found, "note", "limits", "a file may have 100 MiB")
        found = self.doctor(preexec=limited(resource.RLIMIT_FSIZE, 1 << 20))
        self.finds(found, "problem", "files", "writing fails")

    def test_place_that_cannot_be_written_is_a_problem(self):
        job = self.job("doctor", "--run-dir", "/proc/runs")
        self.assertEqual(job.status, 1, job.text())
        self.assertRegex(job.stdout, r"(?m)^problem .*'/proc' cannot be written")

    @unittest.skipIf(NO_MOUNTS, "mounts need root")
    def test_small_memory_between_ranks_is_a_problem(self):
        found = self.doctor(program=mounted("mount -t tmpfs -o size=2m tmpfs /dev/shm", harness.PROGRAM))
        self.assertIn("--shm-size", self.finds(found, "problem", "limits", "/dev/shm: 2 MiB are free")["mend"])

    @unittest.skipIf(NO_MOUNTS, "mounts need root")
    def test_full_disk_is_a_problem_and_a_disk_of_memory_is_said(self):
        found = self.doctor(program=mounted(f"mount -t tmpfs -o size=300k tmpfs {self.folder}", harness.PROGRAM))
        self.finds(found, "problem", "files", "file system tmpfs: 0.0 of 0.0 GB are free")
        self.finds(found, "note", "files", "lies in memory")

    @unittest.skipIf(NO_MOUNTS, "mounts need root")
    def test_quota_of_cores_and_limit_of_memory_are_found(self):
        """What a container sees of its control group."""
        group = self.folder / "group"
        group.mkdir()
        line = next(x for x in Path("/proc/self/cgroup").read_text().splitlines())
        version1 = not line.startswith("0::")
        files = {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "3221225472"} \
            if version1 else {"cpu.max": "50000 100000", "memory.max": "3221225472"}
        for name, text in files.items():
            (group / name).parent.mkdir(exist_ok=True)
            (group / name).write_text(text + "\n")
        found = self.doctor(program=mounted(f"mount --bind {group} /sys/fs/cgroup", harness.PROGRAM))
        self.assertIn("device.threads", self.finds(found, "note", "cores", "a quota of 0.5 cores")["mend"])
        self.finds(found, "note", "memory", "a limit of 3.0 GiB")

    def test_more_ranks_than_cores_are_told(self):
        ranks = os.cpu_count() + 1
        if ranks > 8:
            self.skipTest("too many cores to have more ranks")
        self.finds(self.doctor(ranks=ranks), "note", "cores", "more ranks than cores")


if __name__ == "__main__":
    harness.main()
