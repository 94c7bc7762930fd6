// The kernels for every processor.
#define RESDET_ISA base
#include "kernels.inl"
