#!/usr/bin/env python3
"""Several hosts: network namespaces on one bridge, each with a name, an address, a /dev/shm and a TMPDIR of its own, between
which mpirun starts ranks over TCP. The whole test runs in namespaces (mounts, network, names, processes) that end with it:
nothing that it makes is left anywhere."""

import os
import shutil
import subprocess
import sys
import unittest

import harness

INSIDE = bool(os.environ.get("SY_HOSTS_INSIDE"))
NAMESPACES = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
HOSTS = ["hosta1", "hosta2", "hosta3"]

# host NAME COMMAND...: on that host
ON_HOST = """#!/bin/bash
name=$1
shift
exec ip netns exec "$name" unshare --uts --mount bash -c 'hostname "$0" && mount -t tmpfs tmpfs /dev/shm && TMPDIR=%(tmp)s/$0 exec "$@"' "$name" "$@"
"""
# rsh NAME COMMAND: from one host to another, like ssh; a port that nobody listens on tells whether the other is there
RSH = """#!/bin/bash
name=$1
shift
if timeout 10 bash -c "exec 3<>/dev/tcp/$name/9" 2>&1 | grep -q refused; then
  exec %(folder)s/host "$name" bash -c "$*"
fi
exit 255
"""


def impossible():
    """Why namespaces cannot be had here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "ip (iproute2) and unshare (util-linux) are needed"
    made = subprocess.run(NAMESPACES + ["sh", "-c", "ip link add one type veth peer name two && ip link add three type bridge && "
                                        "mount -t tmpfs tmpfs /run && ip netns add four && ip netns exec four true"],
                          capture_output=True, text=True)
    return None if made.returncode == 0 else "no namespaces here: " + made.stderr.strip()


@unittest.skipUnless(INSIDE, os.environ.get("SY_HOSTS_SKIP", "run by itself"))
class Hosts(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        sh("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && ip link add bridge type bridge && "
           "ip link set bridge up")
        names = ["127.0.0.1 localhost"]
        for i, name in enumerate(HOSTS, 1):
            sh(f"ip netns add {name} && ip link add {name} type veth peer name eth0 netns {name} && "
               f"ip link set {name} master bridge up && ip -n {name} addr add 10.88.0.{i}/24 dev eth0 && "
               f"ip -n {name} link set eth0 up && ip -n {name} link set lo up")
            names.append(f"10.88.0.{i} {name}")
            (cls.home / "tmp" / name).mkdir(parents=True)
        (cls.home / "names").write_text("\n".join(names) + "\n")
        sh(f"mount --bind {cls.home}/names /etc/hosts")
        for script, text in (("host", ON_HOST), ("rsh", RSH)):
            (cls.home / script).write_text(text % {"tmp": cls.home / "tmp", "folder": cls.home})
            (cls.home / script).chmod(0o755)

    def setUp(self):
        super().setUp()
        self.addCleanup(sh, "; ".join(f"ip link set {name} up" for name in HOSTS))
        (self.folder / "hosts").write_text("".join(f"{name} slots=1\n" for name in HOSTS))

    def on_first(self, script, *args, **options):
        """A script of launch/ on the first host, for all three."""
        keepalive_s = options.pop("keepalive_s", 2)
        env = {"SY_RSH": str(self.home / "rsh"), "SY_RSH_WAIT": "30", "OMPI_MCA_btl": "tcp,self",
               "OMPI_MCA_oob_tcp_keepalive_time": str(keepalive_s), "OMPI_MCA_oob_tcp_keepalive_intvl": "1",
               "OMPI_MCA_oob_tcp_keepalive_probes": "2", "SY_FAULT": options.pop("fault", "")}
        launch = harness.ROOT / "launch"
        return self.start(*args, program=["env", f"SY_FAULT={env.pop('SY_FAULT')}", str(self.home / "host"), HOSTS[0],
                                          str(launch / script), "--hosts", str(self.folder / "hosts"), "--network",
                                          "10.88.0.0/24"], env=env, **options)

    def test_host_that_is_cut_off_is_found_and_the_run_goes_on_without_it(self):
        self.goes_on_without_a_host(2, {}, [f"node {HOSTS[2]}"])

    @unittest.skipUnless(harness.LONG, "long: mpirun is given 15 s")
    def test_watchdog_names_the_host_that_is_cut_off_before_mpirun_misses_it(self):
        self.goes_on_without_a_host(60, {"timeout_s": 4}, ["rank 2", HOSTS[2]])

    def goes_on_without_a_host(self, keepalive_s, parallel, words):
        config = self.config(train={"steps": 24, "global_batch": 6, "checkpoint_every": 5}, optim={"decay_steps": 24},
                             parallel=parallel)
        job = self.on_first("supervise.sh", "--shrink", "--backoff", "1", "-n", 3, harness.PROGRAM, "train", config, "--run-dir",
                            self.folder / "run", fault="train.step:13:sleep=200:2", keepalive_s=keepalive_s)
        self.wait_for_steps(job, "run", 12, 60)
        self.assertEqual(len(job.pids()), 3)
        sh(f"ip link set {HOSTS[2]} down")  # while the others wait for the rank there
        job.wait(120)
        self.assertEqual(job.status, 0, job.text())
        self.assertEqual(job.left, {}, "ranks are left behind\n" + job.text())
        for word in words:
            self.assertIn(word, job.stderr)
        log = (self.folder / "run/supervise.log").read_text()
        self.assertIn("2 of 3 ranks, on 2 hosts", log)
        self.assertIn("newest checkpoint: step 10", log)
        self.assertEqual((self.folder / "run/supervise.hosts").read_text(), f"{HOSTS[0]} slots=1\n{HOSTS[1]} slots=1\n")
        self.assertEqual([r["step"] for r in self.metrics("run")], list(range(1, 25)))
        self.train(config, "whole", ranks=3)
        self.near(self.losses("run"), self.losses("whole"), 1e-4)
        self.assertEqual(self.losses("run")[:10], self.losses("whole")[:10], "three hosts and one compute the same")

    def test_doctor_names_the_host_behind_a_slow_link(self):
        sh(f"ip netns exec {HOSTS[1]} tc qdisc add dev eth0 root tbf rate 4mbit burst 32k latency 400ms")
        self.addCleanup(sh, f"ip netns exec {HOSTS[1]} tc qdisc del dev eth0 root")
        job = self.on_first("mpirun.sh", "-n", 3, harness.PROGRAM, "doctor", "--run-dir", self.folder).wait(60)
        self.assertIn("3 ranks on 3 hosts", job.stdout, job.text())
        self.assertRegex(job.stdout, f"rank 1 on {HOSTS[1]} is slow with 2 of 2 others")
        self.assertIn("locks work, between hosts too", job.stdout)
        self.assertIn("clocks of hosts are at most", job.stdout)

    def test_host_that_does_not_answer_is_refused_before_anything_starts(self):
        sh(f"ip link set {HOSTS[1]} down")
        job = self.on_first("mpirun.sh", "-n", 3, harness.PROGRAM, "train", self.config(), "--run-dir", self.folder / "run").wait(60)
        self.check_failure(job, 2, [f"from '{HOSTS[1]}' (line 2)", self.folder / "hosts"])
        self.assertFalse((self.folder / "run").exists())


def sh(command):
    subprocess.run(["sh", "-c", command], check=True)


if __name__ == "__main__":
    if not INSIDE and not os.environ.get("SY_HOSTS_SKIP"):
        reason = impossible()
        if reason is None:
            os.execvpe(NAMESPACES[0], NAMESPACES + [sys.executable, *sys.argv], {**os.environ, "SY_HOSTS_INSIDE": "1"})
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "SY_HOSTS_SKIP": reason})
    harness.main()
