# SPDX-License-Identifier: MIT
# BPF objects have one rule set, Makefile.bpf, which knows their dependencies
# better than a copy of it here would.
find_program(MAKE_PROGRAM make REQUIRED)
if(BUILD_TESTING)
  set(what all)
else()
  set(what programs)
endif()
add_custom_target(bpf-objects ALL
  COMMAND ${MAKE_PROGRAM} -f Makefile.bpf BPF_OUT=${CMAKE_BINARY_DIR} ${what}
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
  COMMENT "BPF objects"
  VERBATIM)
