# A file as a constant of the program.
#
#   postern_embed(source header name ret_c)   ret_c: the generated file, which defines `const struct document <name>`
#
# Run as a script (-P) it is the generator itself: -DSOURCE= -DHEADER= -DNAME= -DRESULT=.
if(CMAKE_SCRIPT_MODE_FILE)
    file(READ ${SOURCE} bytes HEX)
    file(SHA256 ${SOURCE} digest)
    string(LENGTH "${bytes}" count)
    math(EXPR count "${count} / 2")
    string(SUBSTRING ${digest} 0 32 digest)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
    string(REGEX REPLACE "((0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,))" "\\1\n" bytes "${bytes}")
    file(WRITE ${RESULT}
        "#include \"${HEADER}\"\n"
        "static const unsigned char bytes[] = {\n${bytes}\n};\n"
        "const struct document ${NAME} = {{(const char *)bytes, ${count}u}, \"\\\"${digest}\\\"\"};\n")
    return()
endif()

function(postern_embed source header name ret_c)
    set(result ${CMAKE_BINARY_DIR}/embedded/${name}.c)
    add_custom_command(OUTPUT ${result}
        COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR}/${source} -DHEADER=${header} -DNAME=${name}
            -DRESULT=${result} -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
        DEPENDS ${CMAKE_SOURCE_DIR}/${source} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
        COMMENT "embedding ${source}" VERBATIM)
    set(${ret_c} ${result} PARENT_SCOPE)
endfunction()
