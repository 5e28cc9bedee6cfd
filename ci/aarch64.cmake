# Cross-compiling for 64-bit Arm Linux. ci/arm.sh exports LANEWISE_ARM_ROOT, a directory with arm64 Python headers;
# it comes by environment because CMake reads this file again in every compiler check, where cache entries are absent.
if(NOT DEFINED ENV{LANEWISE_ARM_ROOT})
  message(FATAL_ERROR "LANEWISE_ARM_ROOT is not set")
endif()
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# Programs (the interpreter, Cython) run here, so they are never looked for in the target. Packages may be CMake
# modules shipped by build requirements, which live outside any target root. Libraries and headers must be Arm's.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)

# scikit-build-core points these at the build interpreter's own headers; FORCE puts Arm's in their place. Debian's
# pyconfig.h includes <aarch64-linux-gnu/python3.11/pyconfig.h>, hence the directory above. It is searched last:
# only Python's headers are wanted from it, libc's come with the compiler.
foreach(prefix IN ITEMS Python Python3)
  set(${prefix}_INCLUDE_DIR "$ENV{LANEWISE_ARM_ROOT}/usr/include/python3.11" CACHE PATH "" FORCE)
endforeach()
set(CMAKE_C_FLAGS_INIT "-idirafter $ENV{LANEWISE_ARM_ROOT}/usr/include")
set(CMAKE_CXX_FLAGS_INIT "-idirafter $ENV{LANEWISE_ARM_ROOT}/usr/include")

# Under policy CMP0190 (CMake 4.1) find_package(Python) starts the interpreter through this "emulator". Ours is a
# native one, which `env` starts as it is.
set(CMAKE_CROSSCOMPILING_EMULATOR env)
