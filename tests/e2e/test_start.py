#!/usr/bin/env python3
"""How a job starts: ranks that are not alike are refused on all of them with one message, and srun finds the world."""

import re
import shutil
import subprocess
from pathlib import Path

import harness


class Start(harness.Case):
    def on_rank(self, rank, command):
        """A program that does something else on one rank."""
        script = self.folder / "wrapper"
        script.write_text(f'#!/bin/bash\nprogram={harness.PROGRAM}\nif [ "$OMPI_COMM_WORLD_RANK" = {rank} ]; then\n'
                          f'  {command}\nfi\nexec "$program" "$@"\n')
        script.chmod(0o755)
        return [str(script)]

    def refuses(self, words, rank, command, *args, ranks=3, **options):
        job = self.fails(2, words, *args, program=self.on_rank(rank, command), ranks=ranks, **options)
        self.assertLess(job.seconds, 40)
        return job


class Differences(Start):
    def setUp(self):
        super().setUp()
        self.args = ["train", self.config(), "--run-dir", self.folder / "run"]

    def test_another_program_on_one_rank_is_refused(self):
        notes = subprocess.run(["readelf", "-n", harness.PROGRAM], capture_output=True, text=True, check=True).stdout
        build = bytes.fromhex(re.search(r"Build ID: (\w+)", notes)[1])
        program = Path(harness.PROGRAM).read_bytes()
        self.assertEqual(program.count(build), 1)
        other = build[:3] + bytes([build[3] ^ 1]) + build[4:]
        (self.folder / "switchyard").write_bytes(program.replace(build, other))
        (self.folder / "switchyard").chmod(0o755)
        self.refuses(["the program is not the same on all ranks: rank 2:", other.hex(), "rank 0:", build.hex()], 2,
                     f"program={self.folder}/switchyard", *self.args)
        self.assertFalse((self.folder / "run").exists())

    def test_another_command_line_on_one_rank_is_refused(self):
        self.refuses(["the command line is not the same", "rank 0:", "--set optim.lr=2", "rank 1:"], 0,
                     'set -- "$@" --set optim.lr=2', *self.args)

    def test_another_environment_on_one_rank_is_refused_and_what_belongs_to_a_host_is_not(self):
        self.refuses(["the environment is not the same", "rank 1: NCCL_ALGO=Ring SY_CHECKPOINT_IO=mpi", "rank 0: none of it"], 1,
                     "export SY_CHECKPOINT_IO=mpi NCCL_ALGO=Ring", *self.args)
        self.succeeds(*self.args, ranks=3, program=self.on_rank(1, "export SY_LOG=debug NCCL_SOCKET_IFNAME=eth7 HOME=/"))

    def test_other_data_on_one_rank_are_refused(self):
        """One host sees another file system: a mount that only its rank has."""
        place, other = self.folder / "data", self.folder / "other"
        for folder, text in ((place, b"here and there " * 2000), (other, b"here and THERE " * 2000)):
            folder.mkdir()
            harness.write_tokens(folder / "text", [text])
        args = ["train", self.config(data={"train": [{"path": str(place / "text")}]}), "--run-dir", self.folder / "run"]
        mounted = f'exec unshare --mount bash -c \'mount --bind {other} {place}; exec "$@"\' - "$program" "$@"'
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
            self.skipTest("a mount of its own for one rank needs root")
        self.refuses(["data.train[0]", f"'{place}/text' is not the same on all ranks: rank 1: text.bin of 60000 bytes"], 1,
                     mounted, *args)
        shutil.rmtree(other)
        other.mkdir()
        self.refuses([f"'{place}/text' is not the same on all ranks: rank 1: no file on "], 1, mounted, *args)

    def test_rank_that_never_starts_ends_the_job(self):
        job = self.job("doctor", ranks=2, program=self.on_rank(1, "sleep 60"), env={"SY_START_TIMEOUT_S": "3"}, seconds=40)
        self.assertEqual(job.status, 76, job.text())
        self.assertIn("MPI has not started for 3 s", job.text())

    def test_run_directory_that_one_rank_does_not_see_is_refused(self):
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
            self.skipTest("a mount of its own for one rank needs root")
        place = self.folder / "place"
        place.mkdir()
        alone = f'exec unshare --mount bash -c \'mount -t tmpfs tmpfs {place}; exec "$@"\' - "$program" "$@"'
        self.refuses([f"'{place}/run' is not the same on all ranks: rank 1: not there", "that all hosts share"], 1, alone, "train",
                     self.config(), "--run-dir", place / "run")


class Srun(Start):
    """Slurm's variables and PMIx's, and none of Open MPI's: what a rank finds under srun --mpi=pmix."""

    SLURM = ("export SLURM_PROCID=$OMPI_COMM_WORLD_RANK SLURM_LOCALID=$OMPI_COMM_WORLD_RANK SLURM_STEP_NUM_TASKS=3 "
             "SLURM_NTASKS=3 SLURM_JOB_ID=7 SLURM_JOBID=7 SLURM_STEP_ID=0 SLURM_STEPID=0 SLURM_NODELIST=$(hostname) "
             "SLURM_JOB_NODELIST=$(hostname)\n"
             "for name in $(compgen -e | grep ^OMPI_ | grep -v ^OMPI_MCA_orte_precondition); do unset $name; done\n"
             "export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none "
             "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n")

    def on_all(self, command):
        return self.on_rank('"$OMPI_COMM_WORLD_RANK"', command)

    def test_ranks_find_each_other(self):
        job = self.succeeds("train", self.config(), "--run-dir", self.folder / "run", ranks=3, program=self.on_all(self.SLURM))
        self.assertEqual(job.stderr.count("3 ranks, ep 1"), 1, job.text())

    def test_ranks_that_mpi_does_not_find_are_refused(self):
        alone = self.SLURM + "for name in $(compgen -e | grep ^PMIX_); do unset $name; done\n"
        job = self.job("train", self.config(), "--run-dir", self.folder / "run", ranks=2, program=self.on_all(alone))
        self.assertEqual(job.status, 2, job.text())
        self.assertIn("srun started 3 tasks, and MPI sees this one alone: start with srun --mpi=pmix", job.errors()[0])
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    harness.main()
