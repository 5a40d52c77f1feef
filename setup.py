# SPDX-License-Identifier: Apache-2.0
"""The one part that is compiled; everything else about the distribution says pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "notif_relayd._native",
            ["relayd/notif_relayd/_native.cpp"],
            language="c++",
            libraries=["simdjson"],
            extra_compile_args=["-std=c++17", "-Wall", "-Wextra"],
            optional=True,  # the relay works without it, and is slower
        )
    ]
)
