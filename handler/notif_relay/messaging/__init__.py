# SPDX-License-Identifier: Apache-2.0
"""What oslo.messaging loads: the notify driver and the transport driver, both called ``unix``.

They stand apart because they alone import oslo.messaging, which every service that names them has
installed. Nothing else in ``notif_relay`` imports from here, and so it still needs nothing.
"""
