/* The emulator finds what it is for: each wrong kernel runs in a process of its own, which must not
   survive it; a right one does. And what runs late shows a wait that was forgotten. */
#include <cstdio>
#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>

#include <cuda.h>

namespace
{

enum { N = 64 };

__global__ void sums_kernel(int *x)
{
    __shared__ int part[N];
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int sum = part[N - 1 - threadIdx.x];
    for (int i = 16; i > 0; i /= 2) {
        sum += __shfl_xor_sync(~0u, sum, i);
    }
    x[threadIdx.x] = sum;
}

__global__ void barrier_in_a_branch_kernel(int *x)
{
    if (threadIdx.x < 40) {
        __syncthreads();
    } else {
        x[0] = 1;
        __syncthreads();
    }
}

__global__ void barrier_after_some_left_kernel(int *x)
{
    if (threadIdx.x == 5) {
        return;
    }
    x[threadIdx.x] = 1;
    __syncthreads();
}

__global__ void shuffle_of_half_a_warp_kernel(int *x)
{
    if (threadIdx.x % 32 < 16) {
        x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);
    }
}

__global__ void far_write_kernel(int *x)
{
    x[threadIdx.x + N] = 1; /* a block ends at a page that nobody may touch */
}

__global__ void near_write_kernel(int *x)
{
    x[threadIdx.x == 0 ? N - 1 : 0] =
        1; /* the block has one element less: found when it is freed */
}

__global__ void barrier_kernel(int *x)
{
    __shared__ uint64_t b;
    if (threadIdx.x == 0) {
        emulator_barrier_init(&b, 1);
    }
    __syncthreads();
    if (threadIdx.x == 5) {
        x[0] += 1;
        emulator_barrier_arrive(&b, 0);
    }
    emulator_barrier_wait(&b, 0, EMULATOR_SITE);
    x[threadIdx.x] += x[0] > 0;
}

__global__ void barrier_that_misses_bytes_kernel(int *x)
{
    __shared__ uint64_t b;
    if (threadIdx.x == 0) {
        emulator_barrier_init(&b, 1);
        emulator_barrier_arrive(&b, 16);
    }
    __syncthreads();
    emulator_barrier_wait(&b, 0, EMULATOR_SITE);
    x[threadIdx.x] = 1;
}

__global__ void sixteen_bytes_kernel(int *x)
{
    emulator_require_aligned(x + 1, EMULATOR_SITE);
}

/* Does the runtime take it? */
bool takes(dim3 grid, size_t shared_bytes, int asked)
{
    int *x = nullptr;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(N);
    config.dynamicSmemBytes = shared_bytes;
    cudaMalloc((void **)&x, N * sizeof *x);
    cudaMemset(x, 0, N * sizeof *x);
    cudaError_t error = cudaSuccess;
    if (asked > 0) {
        error =
            cudaFuncSetAttribute(sums_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, asked);
    }
    error = error == cudaSuccess ? cudaLaunchKernelEx(&config, sums_kernel, x) : error;
    cudaFree(x);
    return error == cudaSuccess;
}

/* The other faults of a host: a thread of its own process. */
void host_pointer()
{
    cudaLaunchConfig_t config = {};
    int x[N] = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(N);
    cudaLaunchKernelEx(&config, sums_kernel, x);
}

void copy_the_other_way()
{
    int *x = nullptr, y = 0;
    cudaMalloc((void **)&x, sizeof *x);
    cudaMemcpyAsync(&y, x, sizeof y, cudaMemcpyHostToDevice, nullptr);
}

void call_in_a_stream()
{
    cudaLaunchHostFunc(
        nullptr, [](void *) { cudaSetDevice(0); }, nullptr);
}

int run(void (*kernel)(int *), int n)
{
    int *x = nullptr;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(N);
    cudaMalloc((void **)&x, (size_t)n * sizeof *x);
    cudaMemset(x, 0, (size_t)n * sizeof *x);
    for (int i = 0; i < n; i++) {
        x[i] = i;
    }
    cudaLaunchKernelEx(&config, kernel, x);
    const int first = x[0], last = x[n - 1];
    cudaFree(x);
    return kernel == sums_kernel && (first != 1520 || last != 496); /* 32 + .. + 63, 0 + .. + 31 */
}

/* Does the process that runs it end well? */
template <class F> bool survives(F about)
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(1);
        }
        _exit(about());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool say(const char *what, bool ok)
{
    printf("%s: %s\n", what, ok ? "ok" : "FAILED");
    return ok;
}

bool expect(const char *what, bool wanted, void (*kernel)(int *), int n)
{
    return say(what, survives([&] { return run(kernel, n); }) == wanted);
}

bool expect_end(const char *what, void (*host)())
{
    return say(what, !survives([&] {
                   host();
                   return 0;
               }));
}

/* The process' first stream writes 1s, another copies them to the host. What the host finds: 1, or
   what was there before. */
int copy_in_a_process(const char *order, bool waits, bool host_waits)
{
    cudaStream_t writer, reader;
    cudaEvent_t written;
    unsigned char *x = nullptr, got = 7;
    setenv("EMULATOR_ORDER", order, 1);
    cudaStreamCreateWithFlags(&writer, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&reader, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&written, cudaEventDisableTiming);
    cudaMalloc((void **)&x, 1);
    cudaMemset(x, 0, 1);
    cudaMemsetAsync(x, 1, 1, writer);
    cudaEventRecord(written, writer);
    if (waits) {
        cudaStreamWaitEvent(reader, written, 0);
    }
    cudaMemcpyAsync(&got, x, 1, cudaMemcpyDeviceToHost, reader);
    if (host_waits) {
        cudaStreamSynchronize(reader);
    }
    const int found = *(volatile unsigned char *)&got;
    cudaFree(x);
    cudaStreamDestroy(reader);
    cudaStreamDestroy(writer);
    cudaEventDestroy(written);
    return found;
}

int copied(const char *order, bool waits, bool host_waits)
{
    fflush(stdout);
    const pid_t child = fork(); /* whose streams are its first */
    if (child == 0) {
        _exit(copy_in_a_process(order, waits, host_waits));
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool expect_copied(const char *what, int wanted, const char *order, bool waits, bool host_waits)
{
    return say(what, copied(order, waits, host_waits) == wanted);
}

} // namespace

int main()
{
    bool ok = expect("right_kernel_passes", true, sums_kernel, N);
    ok &= expect("barriers_at_two_lines_end_it", false, barrier_in_a_branch_kernel, N);
    ok &= expect("barrier_that_a_thread_misses_ends_it", false, barrier_after_some_left_kernel, N);
    ok &= expect("shuffle_that_lanes_miss_ends_it", false, shuffle_of_half_a_warp_kernel, N);
    ok &= expect("barrier_in_shared_memory_lets_pass", true, barrier_kernel, N);
    ok &= expect("barrier_in_shared_memory_that_misses_bytes_ends_it", false,
                 barrier_that_misses_bytes_kernel, N);
    ok &= expect("write_far_behind_the_end_ends_it", false, far_write_kernel, N);
    ok &= expect("write_just_behind_the_end_ends_it", false, near_write_kernel, N - 1);
    ok &= expect("vector_that_is_not_aligned_ends_it", false, sixteen_bytes_kernel, N);
    ok &= expect_end("kernel_given_memory_of_the_host_ends_it", host_pointer);
    ok &= expect_end("copy_that_goes_another_way_ends_it", copy_the_other_way);
    ok &= expect_end("runtime_called_from_a_stream_ends_it", call_in_a_stream);
    ok &= say("grid_of_nothing_is_refused", !takes(dim3(0), 0, 0));
    ok &= say("grid_too_deep_is_refused", !takes(dim3(1, 1, 65536), 0, 0));
    ok &= say("shared_memory_within_the_default_is_given", takes(dim3(1), 36 << 10, 0));
    ok &= say("shared_memory_beyond_it_is_refused_unasked", !takes(dim3(1), 40 << 10, 0));
    ok &= say("shared_memory_beyond_it_is_given_if_asked_for", takes(dim3(1), 40 << 10, 40 << 10));
    ok &= say("shared_memory_that_no_gpu_has_is_refused", !takes(dim3(1), 40 << 10, 228 << 10));
    ok &= expect_copied("streams_at_once_hide_a_missing_wait", 1, "", false, true);
    ok &= expect_copied("streams_that_run_late_keep_to_waits", 1, "late", true, true);
    ok &= expect_copied("streams_that_run_late_show_a_missing_wait", 0, "late", false, true);
    ok &= expect_copied("stream_that_runs_late_alone_keeps_to_waits", 1, "uneven", true, true);
    ok &=
        expect_copied("stream_that_runs_late_alone_shows_a_missing_wait", 0, "uneven", false, true);
    ok &= expect_copied("streams_that_run_late_show_a_host_that_does_not_wait", 7, "late", true,
                        false);
    return ok ? 0 : 1;
}
