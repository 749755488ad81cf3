#include "launch/env.h"

#include <fcntl.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/fault.h"
#include "core/log.h"
#include "core/thread.h"
#include "launch/last_words.h"
#include "parallel/watch.h"

static volatile sig_atomic_t stop_flag; /* the stop flag of DESIGN section 1 */

static void on_signal(int signum)
{
    if (stop_flag) {
        _exit(128 + signum);
    }
    stop_flag = 1;
}

sy_status sy_env_catch_signals(void)
{
    sy_status st = SY_OK;
    static const int signals[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction before = {0}, ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&action.sa_mask);
    sigaction(SIGPIPE, &ignore, NULL); /* nobody reads the log any more: training goes on */
    sigaction(SIGHUP, NULL, &before);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        if (signals[i] == SIGHUP && before.sa_handler == SIG_IGN) {
            continue; /* nohup */
        }
        SY_REQUIRE(sigaction(signals[i], &action, NULL) == 0, SY_ERR_INTERNAL,
                   "signal %d cannot be caught", signals[i]);
    }
cleanup:
    return st;
}

bool sy_env_stop_requested(void)
{
    return stop_flag != 0;
}

/* Names that launchers set: Open MPI's mpirun, and PMIx under srun. */
static const char *launcher_rank(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    return rank != NULL ? rank : getenv("PMIX_RANK");
}

/* srun without PMIx, or with one that this MPI does not speak, starts ranks that know of no other:
   each would train alone, in the folder of all. */
static sy_status check_tasks(int32_t n_ranks)
{
    sy_status st = SY_OK;
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    const bool from_srun = tasks != NULL && getenv("OMPI_COMM_WORLD_SIZE") == NULL;
    SY_REQUIRE(!from_srun || n_ranks > 1 || strcmp(tasks, "1") == 0, SY_ERR_USAGE,
               "srun started %s tasks, and MPI sees this one alone: start with srun --mpi=pmix "
               "(srun --mpi=list says whether this Slurm has it), or with launch/mpirun.sh",
               tasks);
cleanup:
    return st;
}

bool sy_env_is_root(void)
{
    const char *rank = launcher_rank();
    return rank == NULL || strcmp(rank, "0") == 0;
}

/* What a thread looks after that runs as long as the program. */
typedef struct keeper {
    pid_t parent;
    double limit_s; /* for MPI to start; 0: as long as it takes */
    bool joined;    /* atomic: it has */
} keeper;

/* MPI starts when the last rank has called it: one that never does would hold all others for good,
   before there is a watch. */
static void end_if_alone(const keeper *k, double waited_s)
{
    if (k->limit_s > 0 && waited_s > k->limit_s && !__atomic_load_n(&k->joined, __ATOMIC_ACQUIRE)) {
        dprintf(STDERR_FILENO,
                "switchyard: MPI has not started for %.0f s: a rank of this job has not called it "
                "(another program, or a host that hangs), or hosts cannot reach each "
                "other (launch/mpirun.sh --network); SY_START_TIMEOUT_S sets the limit\n",
                waited_s);
        _exit(SY_EXIT_HUNG);
    }
}

/* The launcher died: so do we, whatever we are doing, and write nothing more. */
static void *keep(void *arg)
{
    const keeper *k = arg;
    const double from = sy_clock_s();
    while (getppid() == k->parent) {
        sy_clock_sleep_s(0.25);
        end_if_alone(k, sy_clock_s() - from);
    }
    _exit(1);
}

static sy_status start_keeper(keeper *k)
{
    sy_status st = SY_OK;
    pthread_t thread;
    const char *limit = getenv("SY_START_TIMEOUT_S");
    *k = (keeper){.parent = getppid(), .limit_s = limit != NULL ? strtod(limit, NULL) : 600};
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* at once where the launcher itself is our parent */
    SY_TRY(sy_thread_start("sy-keeper", keep, k, &thread));
    pthread_detach(thread);
cleanup:
    return st;
}

static sy_status init_mpi(int *argc, char ***argv)
{
    sy_status st = SY_OK;
    int provided = 0;
    SY_REQUIRE(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) == MPI_SUCCESS,
               SY_ERR_COMM, "MPI_Init_thread failed");
    SY_REQUIRE(provided == MPI_THREAD_MULTIPLE, SY_ERR_COMM,
               "this MPI does not offer MPI_THREAD_MULTIPLE (it offers level %d)", provided);
cleanup:
    return st;
}

static void find_place(sy_env *env)
{
    MPI_Comm node;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &env->local_rank);
    MPI_Comm_size(node, &env->local_size);
    MPI_Comm_free(&node);
}

/* A launcher that binds ranks to cores has already dealt them out; one that does not leaves the
 * whole node to each. */
static int32_t default_threads(int32_t local_size)
{
    int32_t mine = sy_thread_cores(), node = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    int32_t threads = mine < node ? mine : node / local_size;
    return threads > 0 ? threads : 1;
}

/* A stream that was closed leaves its number to the next file, and log lines would go into that.
   What stands there instead cannot be written, so results that are lost are noticed. */
static void hold_streams(void)
{
    int fd = 0;
    while (fd >= 0 && fd <= STDERR_FILENO) {
        fd = open("/dev/null", O_RDONLY);
    }
    if (fd > STDERR_FILENO) {
        close(fd);
    }
}

sy_status sy_env_open(int *argc, char ***argv, sy_env *env)
{
    static keeper look_after; /* its thread outlives this call */
    sy_status st = SY_OK, faults;
    int rank = 0;
    *env = (sy_env){.local_size = 1};
    hold_streams();
    signal(SIGXFSZ, SIG_IGN); /* `ulimit -f` is an error of a file, as a full disk is */
    if (launcher_rank() != NULL) {
        SY_TRY(start_keeper(&look_after));
        SY_TRY(init_mpi(argc, argv));
        __atomic_store_n(&look_after.joined, true, __ATOMIC_RELEASE);
        env->mpi = true;
        find_place(env);
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    }
    faults = sy_fault_setup(rank);
    SY_TRY(sy_comm_world(env->mpi, &env->world));
    sy_log_setup(env->world->rank, env->world->size,
                 getenv("SY_LOG") != NULL ? SY_LOG_DEBUG : SY_LOG_INFO);
    sy_last_words_arm(env->world->rank, env->world->size);
    SY_TRY(faults);
    SY_TRY(check_tasks(env->world->size));
    env->threads = default_threads(env->local_size);
cleanup:
    return st;
}

void sy_env_close(sy_env *env)
{
    sy_last_words_disarm();
    if (env->mpi && env->world == NULL) {
        MPI_Abort(MPI_COMM_WORLD, 1); /* the others wait for us in a world that will never be */
    }
    if (env->world != NULL) {
        sy_watch_close(env->world);
    }
    sy_comm_destroy(&env->world);
    if (env->mpi) {
        MPI_Finalize();
    }
}
