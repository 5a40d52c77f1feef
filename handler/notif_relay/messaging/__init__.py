# SPDX-License-Identifier: Apache-2.0
"""Plug-ins for oslo.messaging: the notify driver and the transport driver, both named ``unix``.

Only this package imports oslo.messaging, which every service that configures a plug-in has
installed. The rest of ``notif_relay`` does not import this package and thus depends only on the
standard library.
"""
