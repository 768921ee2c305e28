# TLS and JOSE crypto: BoringSSL (Debian: android-libboringssl-dev, or a build under BORINGSSL_ROOT), or
# OpenSSL 3 with -DPOSTERN_CRYPTO=openssl.  We keep to the API that both share.
add_library(postern_crypto INTERFACE)
if(POSTERN_CRYPTO STREQUAL "openssl")
    find_package(OpenSSL 3 REQUIRED)
    target_link_libraries(postern_crypto INTERFACE OpenSSL::SSL OpenSSL::Crypto)
else()
    find_path(BORINGSSL_INCLUDE openssl/is_boringssl.h HINTS ${BORINGSSL_ROOT}/include
        PATHS /usr/include/android NO_DEFAULT_PATH)
    find_library(BORINGSSL_CRYPTO crypto HINTS ${BORINGSSL_ROOT}/lib ${BORINGSSL_ROOT}/build/crypto
        PATHS /usr/lib/${CMAKE_C_LIBRARY_ARCHITECTURE}/android NO_DEFAULT_PATH)
    find_library(BORINGSSL_SSL ssl HINTS ${BORINGSSL_ROOT}/lib ${BORINGSSL_ROOT}/build/ssl
        PATHS /usr/lib/${CMAKE_C_LIBRARY_ARCHITECTURE}/android NO_DEFAULT_PATH)
    if(NOT BORINGSSL_INCLUDE OR NOT BORINGSSL_CRYPTO)
        message(FATAL_ERROR "BoringSSL not found: run './dev deps', set BORINGSSL_ROOT, or use "
            "-DPOSTERN_CRYPTO=openssl")
    endif()
    target_include_directories(postern_crypto SYSTEM INTERFACE ${BORINGSSL_INCLUDE})
    target_link_libraries(postern_crypto INTERFACE ${BORINGSSL_SSL} ${BORINGSSL_CRYPTO})
    get_filename_component(BORINGSSL_LIBDIR ${BORINGSSL_CRYPTO} DIRECTORY)
    list(APPEND CMAKE_BUILD_RPATH ${BORINGSSL_LIBDIR})
    list(APPEND CMAKE_INSTALL_RPATH ${BORINGSSL_LIBDIR})
endif()
