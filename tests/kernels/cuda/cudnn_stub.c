/* What cuDNN asks of CUDA's driver and runtime while it plans: which GPU there is (COMPUTE is its capability, 90 say),
   and that kernels it has compiled can be loaded. Whatever would run something fails. */
#include <string.h>

#define REFUSE(name) \
  int name(void) { return 34; } /* cudaErrorStubLibrary */
#define AGREE(name) \
  int name(void) { return 0; }
#define GIVE(name, what)   \
  int name(void** found) { \
    *found = (void*)what;  \
    return 0;              \
  }
#define COUNT(name, number) \
  int name(int* found) {    \
    *found = number;        \
    return 0;               \
  }

/* The beginning of the runtime's cudaDeviceProp, which is the same in CUDA 12 and 13. */
struct properties {
  char name[256], others[104];
  int major, minor;
};

int cudaGetDeviceProperties(struct properties* found) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "a GPU that is not there");
  found->major = COMPUTE / 10;
  found->minor = COMPUTE % 10;
  return 0;
}

int cudaGetDeviceProperties_v2(struct properties* found) { return cudaGetDeviceProperties(found); }

int cudaDeviceGetAttribute(int* value, int attribute) {
  switch (attribute) {
    case 8: *value = 49152; break;   /* shared memory of a block */
    case 10: *value = 32; break;     /* threads of a warp */
    case 16: *value = 132; break;    /* multiprocessors */
    case 75: *value = COMPUTE / 10; break;
    case 76: *value = COMPUTE % 10; break;
    case 97: *value = 232448; break; /* shared memory of a block that asks for more */
    default: *value = 0;
  }
  return 0;
}

const char* cudaGetErrorString(int error) { return "there is no GPU"; }
AGREE(cudaGetLastError)
COUNT(cudaGetDevice, 0)
COUNT(cudaRuntimeGetVersion, 13000)
COUNT(cudaDriverGetVersion, 13000)

GIVE(cuLibraryLoadData, 16)
GIVE(cuLibraryGetKernel, 32)
GIVE(cuKernelGetFunction, 48)
GIVE(cuModuleLoadData, 16)
GIVE(cuModuleGetFunction, 48)
AGREE(cuLibraryUnload)
AGREE(cuModuleUnload)
AGREE(cuKernelSetAttribute)
AGREE(cuFuncSetAttribute)
COUNT(cuKernelGetAttribute, 0)
COUNT(cuFuncGetAttribute, 0)
COUNT(cuOccupancyMaxActiveBlocksPerMultiprocessor, 1)
COUNT(cuOccupancyMaxActiveClusters, 16)
COUNT(cuOccupancyMaxPotentialClusterSize, 8)

REFUSE(cuCtxGetCurrent)
REFUSE(cuCtxGetLimit)
REFUSE(cuCtxPopCurrent)
REFUSE(cuCtxPushCurrent)
REFUSE(cuDeviceGet)
REFUSE(cuDeviceGetCount)
REFUSE(cuDriverGetVersion)
REFUSE(cuGetErrorName)
REFUSE(cuGetErrorString)
REFUSE(cuLaunchCooperativeKernel)
REFUSE(cuLaunchKernel)
REFUSE(cuLaunchKernelEx)
REFUSE(cuLibraryLoadFromFile)
REFUSE(cuLinkAddData)
REFUSE(cuLinkComplete)
REFUSE(cuLinkCreate)
REFUSE(cuLinkDestroy)
REFUSE(cuStreamGetCtx)
REFUSE(cuTensorMapEncodeIm2col)
REFUSE(cuTensorMapEncodeTiled)
