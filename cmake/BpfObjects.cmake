# SPDX-License-Identifier: MIT
# BPF objects have one rule set, Makefile.bpf, which knows their dependencies
# better than a copy of it here would.
if(EXISTS ${CMAKE_SOURCE_DIR}/Makefile.bpf)
  find_program(MAKE_PROGRAM make REQUIRED)
  add_custom_target(bpf-objects ALL
    COMMAND ${MAKE_PROGRAM} -f Makefile.bpf
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    COMMENT "BPF objects"
    VERBATIM)
endif()
