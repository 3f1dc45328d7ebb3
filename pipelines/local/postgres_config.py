"""Configuration of the embedded Postgres, written anew at every start.

What belongs here: the text of the included configuration file and of pg_hba.conf. What does not: starting the server.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

MIB = 1024 * 1024
HBA = "# Written at every start. Passwords only, from this machine only.\nhost all all 127.0.0.1/32 scram-sha-256\n"


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or its control group's limit where that is lower."""
    total = psutil.virtual_memory().total
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return total


def shared_memory_type() -> str:
    """`posix`, or `mmap` where /dev/shm is missing or tiny (containers: 64 MiB, too little for one parallel hash)."""
    folder = Path("/dev/shm")
    if not Path("/proc").is_dir():
        return "posix"
    try:
        return "posix" if shutil.disk_usage(folder).total >= 512 * MIB else "mmap"
    except OSError:
        return "mmap"


def text(port: int) -> str:
    """The included file.

    Args:
        port: the port on 127.0.0.1.
    """
    shared_buffers_mib = max(32, min(512, memory_bytes() // MIB // 8))
    settings = {
        "listen_addresses": "'127.0.0.1'",
        "port": port,
        "unix_socket_directories": "''",
        "max_connections": 200,
        "max_locks_per_transaction": 256,  # a ledger partition per close date, and its indexes
        "password_encryption": "scram-sha-256",
        "shared_buffers": f"{shared_buffers_mib}MB",
        "dynamic_shared_memory_type": shared_memory_type(),
        "work_mem": "64MB",
        "maintenance_work_mem": f"{shared_buffers_mib // 2}MB",
        "max_wal_size": "4GB",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "timezone": "'UTC'",
        "log_timezone": "'UTC'",
        "client_connection_check_interval": "'1s'",
        # The log holds what went wrong and never a customer's row: no statements, no values, no DETAIL lines.
        "logging_collector": "off",
        "log_destination": "'stderr'",
        "log_line_prefix": "'%m [%p] %q%u@%d '",
        "log_statement": "none",
        "log_min_error_statement": "panic",
        "log_parameter_max_length": 0,
        "log_parameter_max_length_on_error": 0,
        "log_error_verbosity": "terse",
        "log_checkpoints": "off",
        "cluster_name": "'compline'",
    }
    return "# Written at every start.\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
