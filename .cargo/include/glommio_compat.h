#ifndef __ASSEMBLER__
#include <fcntl.h>
#endif
