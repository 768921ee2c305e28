# Seeded bugs: known faults, put in on purpose, to show that the simulator finds them.
#
# tests/sim/bugs/<name>.patch is a change to one source file under a line "Oracle: <who has to notice>", and perhaps
# "From seed: <N>", where the search begins when it would be long (1,000 is its end in any case).  It is applied
# to a copy in the build directory; the tree is never touched.  A patch that no longer applies, without fuzz, fails the
# build: the bug has to follow the code.
#
#   tests        postern_add_seeded_bugs(): one simulator per bug, with that one object in place of the library's
#   by hand      -DPOSTERN_SEEDED_BUG=<name>: every program of a debug build, to look at a bug in the whole broker
set(POSTERN_SEEDED_BUG "" CACHE STRING "name of a patch in tests/sim/bugs: builds the FAULTY programs")

# The source that <name> changes, the copy that has the fault, the oracles of its patch and the seed to begin with.
function(postern_seeded_bug name ret_source ret_mutant ret_oracle ret_from)
    set(patch ${CMAKE_SOURCE_DIR}/tests/sim/bugs/${name}.patch)
    if(NOT EXISTS ${patch})
        message(FATAL_ERROR "no seeded bug \"${name}\": tests/sim/bugs has no such patch")
    endif()
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${patch})
    file(STRINGS ${patch} sources REGEX "^--- a/")
    file(STRINGS ${patch} oracles REGEX "^Oracle: ")
    file(STRINGS ${patch} from REGEX "^From seed: [0-9]+$")
    string(REGEX REPLACE "^From seed: " "" from "${from}")
    if(NOT from)
        set(from 1)
    endif()
    if(NOT sources MATCHES "^--- a/([^;]+)$" OR NOT oracles MATCHES "^Oracle: [^;]+$")
        message(FATAL_ERROR "${patch}: must change one file, and have one line \"Oracle: ...\"")
    endif()
    string(REGEX REPLACE "^--- a/" "" source ${sources})
    string(REGEX REPLACE "^Oracle: " "" oracle ${oracles})
    get_filename_component(extension ${source} EXT)
    get_filename_component(folder ${source} DIRECTORY)
    set(mutant ${CMAKE_BINARY_DIR}/bugs/${name}${extension})
    add_custom_command(OUTPUT ${mutant} DEPENDS ${patch} ${CMAKE_SOURCE_DIR}/${source}
        COMMAND sh -c "patch --fuzz=0 --forward --quiet --reject-file=- --output='${mutant}' '${CMAKE_SOURCE_DIR}/${source}' '${patch}' || { rm -f '${mutant}'; echo 'tests/sim/bugs/${name}.patch does not fit ${source} any more: the seeded bug has to follow the code'; exit 1; }"
        COMMENT "seeding bug ${name} into a copy of ${source}" VERBATIM)
    # Includes of a neighbour by its bare name still have to find it; a fault may leave things unused.
    set_source_files_properties(${mutant} PROPERTIES
        COMPILE_OPTIONS "-iquote;${CMAKE_SOURCE_DIR}/${folder};-w")
    set(${ret_source} ${CMAKE_SOURCE_DIR}/${source} PARENT_SCOPE)
    set(${ret_mutant} ${mutant} PARENT_SCOPE)
    set(${ret_oracle} ${oracle} PARENT_SCOPE)
    set(${ret_from} ${from} PARENT_SCOPE)
endfunction()

# Swaps the one source in the list of the library's.
function(postern_seed_library ret_sources)
    if(NOT POSTERN_SEEDED_BUG)
        return()
    endif()
    if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
        message(FATAL_ERROR "POSTERN_SEEDED_BUG=${POSTERN_SEEDED_BUG}: only a debug build may have a bug on purpose")
    endif()
    postern_seeded_bug(${POSTERN_SEEDED_BUG} source mutant oracle from)
    message(WARNING "SEEDED BUG \"${POSTERN_SEEDED_BUG}\": every program of this build is FAULTY on purpose")
    list(REMOVE_ITEM ${ret_sources} ${source})
    set(${ret_sources} ${${ret_sources}} ${mutant} PARENT_SCOPE)
endfunction()

# One simulator and one test per patch.  The copies are made by every build, so that a change that leaves a bug behind
# fails at once; the simulators are built when the tests want them.
function(postern_add_seeded_bugs objects)
    file(GLOB patches CONFIGURE_DEPENDS tests/sim/bugs/*.patch)
    set(mutants)
    set(programs)
    foreach(patch IN LISTS patches)
        get_filename_component(name ${patch} NAME_WE)
        postern_seeded_bug(${name} source mutant oracle from)
        list(APPEND mutants ${mutant})
        # The faulty object comes before the library, whose own is then not taken.
        set(program postern-sim-bug-${name})
        list(APPEND programs ${program})
        add_executable(${program} EXCLUDE_FROM_ALL $<TARGET_OBJECTS:${objects}> ${mutant})
        target_link_libraries(${program} PRIVATE postern_sim_core)
        set_target_properties(${program} PROPERTIES POSTERN_ZMQ_TWIN ON RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bugs)
        if(oracle STREQUAL "none") # the control: what is found in the others is not the machinery's
            postern_add_test(sim_bug_${name} sim 120 ${CMAKE_BINARY_DIR}/bugs/${program} --seeds 20 --jobs 1)
        else()
            math(EXPR seeds "1001 - ${from}")
            postern_add_test(sim_bug_${name} sim 600 ${CMAKE_BINARY_DIR}/bugs/${program} --seed ${from} --seeds ${seeds}
                --jobs 1 --expect ${oracle})
        endif()
        set_tests_properties(sim_bug_${name} PROPERTIES FIXTURES_REQUIRED sim_bugs)
    endforeach()
    add_custom_target(sim-bugs-seeded ALL DEPENDS ${mutants})
    add_custom_target(sim-bugs DEPENDS ${programs})
    postern_add_test(sim_bugs_build sim 600 ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target sim-bugs)
    set_tests_properties(sim_bugs_build PROPERTIES FIXTURES_SETUP sim_bugs)
endfunction()
