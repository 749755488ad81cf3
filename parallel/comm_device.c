/* Which library moves memory that the host cannot see. What was built decides, as in the registry
   of backends. */
#include "parallel/comm_impl.h"

#ifdef SY_HAVE_CUDA
#include "backend/cuda/native.h"
#endif

bool sy__comm_device_is_apart(const sy_device *dev)
{
#ifdef SY_HAVE_CUDA
    return dev != NULL && sy_cuda_ordinal(dev) >= 0;
#else
    (void)dev;
    return false;
#endif
}

#ifdef SY_HAVE_NCCL

sy_status sy__comm_device_create(sy_comm **host, sy_device *dev, sy_comm **out)
{
    return sy__comm_nccl_create(host, dev, out);
}

sy_status sy__comm_device_check(void)
{
    return sy__comm_nccl_check();
}

void sy__comm_device_abort(void)
{
    sy__comm_nccl_abort();
}

#else

sy_status sy__comm_device_create(sy_comm **host, sy_device *dev, sy_comm **out)
{
    (void)host, (void)out;
    return sy_error(SY_ERR_UNSUPPORTED,
                    "several ranks with backend '%s' need NCCL, and this program was built where "
                    "there was no nccl.h: run one rank, or build it where NCCL is installed",
                    dev->name);
}

sy_status sy__comm_device_check(void)
{
    return SY_OK;
}

void sy__comm_device_abort(void)
{
}

#endif
