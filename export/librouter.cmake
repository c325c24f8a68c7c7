# librouter, the runtime alone: shared and static. Both show the functions of export/librouter.h and no other name.

if(ROUTER_SANITIZED) # a sanitizer's own sections do not survive the joining
  set(librouter_object $<TARGET_OBJECTS:runtime_objects> ${INFERENCE_OBJECTS})
else()
  # One relocatable object holds what those functions reach, its inner names made local: a program that links it may
  # have its own file_open, and needs nothing that only training calls.
  file(STRINGS export/librouter.h declarations REGEX "^ROUTER_API .*router_[a-z_]+[(]")
  set(roots)
  foreach(declaration ${declarations})
    string(REGEX REPLACE ".*(router_[a-z_]+)[(].*" "-u;\\1" root "${declaration}")
    list(APPEND roots ${root})
  endforeach()
  set(librouter_object ${CMAKE_BINARY_DIR}/librouter_all.o)
  add_custom_command(OUTPUT ${librouter_object}
    COMMAND ${CMAKE_LINKER} -r --gc-sections --force-group-allocation ${roots} -o ${librouter_object}
      $<TARGET_OBJECTS:runtime_objects> ${INFERENCE_OBJECTS}
    COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=router_* --strip-unneeded ${librouter_object}
    DEPENDS runtime_objects $<TARGET_OBJECTS:runtime_objects> ${INFERENCE_OBJECTS}
    COMMAND_EXPAND_LISTS VERBATIM COMMENT "Joining librouter")
  add_custom_target(librouter_joined DEPENDS ${librouter_object})
endif()

add_library(router_shared SHARED ${librouter_object})
set(librouter_map ${CMAKE_SOURCE_DIR}/export/librouter.map) # hides what C++ headers instantiate
set_target_properties(router_shared PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 1 LINK_DEPENDS ${librouter_map})
target_link_options(router_shared PRIVATE -Wl,--as-needed -Wl,--version-script=${librouter_map}
  $<$<NOT:$<BOOL:${ROUTER_SANITIZED}>>:-Wl,--no-undefined>)
target_link_libraries(router_shared PRIVATE PkgConfig::SENTENCEPIECE PkgConfig::ZSTD Threads::Threads m)
add_library(router_static STATIC ${librouter_object})
foreach(library router_shared router_static)
  set_target_properties(${library} PROPERTIES OUTPUT_NAME router LINKER_LANGUAGE CXX)
  if(NOT ROUTER_SANITIZED)
    add_dependencies(${library} librouter_joined)
  endif()
endforeach()

configure_file(export/librouter.pc.in librouter.pc @ONLY)
install(TARGETS router_shared router_static
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES export/librouter.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/librouter.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
