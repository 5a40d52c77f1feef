# SPDX-License-Identifier: Apache-2.0
"""Builds the compiled module. pyproject.toml contains all other settings of the distribution."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "notif_relayd._native",
            ["relayd/notif_relayd/_native.cpp"],
            language="c++",
            libraries=["simdjson"],
            extra_compile_args=["-std=c++17", "-Wall", "-Wextra"],
            optional=True,  # without it, the relay works but is slower
        )
    ]
)
