# SPDX-License-Identifier: MIT
# The library for others: headers, pkg-config, CMake. Its headers include each
# other as "sys/error.h", which needs a folder named sys/ on the include path;
# installed they do by relative paths, and users write <ublkbpf/sys/error.h>.
include(CMakePackageConfigHelpers)

set(headers ${CMAKE_BINARY_DIR}/include/ublkbpf)
file(GLOB LIBRARY_HEADERS CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/loader
  loader/sys/*.h loader/ctrl/*.h loader/server/*.h loader/prog/*.h loader/device/*.h
  loader/layer/*.h)
foreach(header ${LIBRARY_HEADERS})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS loader/${header})
  file(READ loader/${header} text)
  string(REGEX REPLACE "#include \"([a-z]+/[a-z_0-9]+\\.h)\"" "#include \"../\\1\"" text "${text}")
  file(CONFIGURE OUTPUT ${headers}/${header} CONTENT "${text}" @ONLY)
endforeach()
install(DIRECTORY ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# What programs and their tools include, and what builds programs.
install(FILES uapi/ublk_bpf.h uapi/ublk_bpf_maps.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY bpf/include/ublk DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES Makefile.bpf DESTINATION share/ublk-bpf)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/ublkbpf)
install(TARGETS ublkbpf EXPORT ublkbpf ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT ublkbpf NAMESPACE ublkbpf:: FILE ublkbpf-targets.cmake DESTINATION ${package})
configure_package_config_file(cmake/ublkbpf-config.cmake.in ${CMAKE_BINARY_DIR}/ublkbpf-config.cmake
  INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/ublkbpf-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/ublkbpf-config.cmake ${CMAKE_BINARY_DIR}/ublkbpf-config-version.cmake
  DESTINATION ${package})
configure_file(cmake/ublkbpf.pc.in ${CMAKE_BINARY_DIR}/ublkbpf.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/ublkbpf.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
