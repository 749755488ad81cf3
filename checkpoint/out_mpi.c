/* MPI-IO. Each rank opens the file for itself and writes independently, so that the writer's thread
   makes no collective. The drivers of MPI lock or cache as their file system wants it. */
#include <mpi.h>
#include <string.h>

#include "checkpoint/out_impl.h"
#include "core/alloc.h"
#include "core/fault.h"
#include "core/pulse.h"

enum { CALL_BYTES = 1 << 30 }; /* MPI counts in an int */

static sy_status check(int rc, const char *verb, const char *path)
{
    char why[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    if (rc == MPI_SUCCESS) {
        return SY_OK;
    }
    MPI_Error_string(rc, why, &n);
    return sy_error(SY_ERR_IO, "MPI-IO cannot %s '%s': %s", verb, path, why);
}

static sy_status mpi_open(sy__out *out)
{
    sy_status st = SY_OK;
    MPI_File *file = NULL;
    SY_TRY(sy_alloc(1, sizeof *file, (void **)&file));
    SY_TRY(check(MPI_File_open(MPI_COMM_SELF, out->path, MPI_MODE_RDWR, MPI_INFO_NULL, file),
                 "open", out->path));
    out->file = file;
    file = NULL;
cleanup:
    sy_free(&file);
    return st;
}

static sy_status mpi_write(sy__out *out, const void *from, int64_t n, int64_t offset)
{
    sy_status st = SY_OK;
    const char *at = from;
    SY_TRY(sy_fault("checkpoint_write"));
    while (n > 0) {
        const int want = (int)(n < CALL_BYTES ? n : CALL_BYTES);
        MPI_Status status;
        int put = 0;
        SY_TRY(check(MPI_File_write_at(*(MPI_File *)out->file, offset, at, want, MPI_BYTE, &status),
                     "write", out->path));
        MPI_Get_count(&status, MPI_BYTE, &put);
        SY_REQUIRE(put > 0 && put <= want, SY_ERR_IO,
                   "MPI-IO cannot write '%s': nothing is written", out->path);
        sy_pulse_beat();
        at += put;
        n -= put;
        offset += put;
    }
cleanup:
    return st;
}

static sy_status mpi_sync(sy__out *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_fault("checkpoint_fsync"));
    SY_TRY(check(MPI_File_sync(*(MPI_File *)out->file), "bring to the disk", out->path));
cleanup:
    return st;
}

static sy_status mpi_close(sy__out *out, bool written)
{
    int rc = out->file != NULL ? MPI_File_close(out->file) : MPI_SUCCESS;
    sy_free(&out->file);
    return written ? check(rc, "close", out->path) : SY_OK;
}

const sy__way *sy__way_mpi(void)
{
    static const sy__way mpi = {"mpi", mpi_open, NULL, mpi_write, NULL, mpi_sync, mpi_close};
    int up = 0, level = MPI_THREAD_SINGLE;
    MPI_Initialized(&up);
    if (up) {
        MPI_Query_thread(&level);
    }
    return level == MPI_THREAD_MULTIPLE ? &mpi : NULL;
}
