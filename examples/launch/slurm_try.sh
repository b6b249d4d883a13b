#!/usr/bin/env bash
# slurm_try.sh up NODES | srun ARGUMENTS... | sbatch FILE ARGUMENTS... | squeue | down: a Slurm of
# its own on this machine, one slurmd in each node of scripts/cluster.sh, to try what docs/launch.md
# says. Not a way to install Slurm. Needs root and Debian's slurm-wlm and munge.
set -euo pipefail
cd "$(dirname "$0")/../.."
export WITAN_CLUSTER=slurm
prefix=witan-$WITAN_CLUSTER-
folder=/run/witan-slurm

# An own munge: neither its key nor its socket is that of this machine's Slurm, should it have one.
configure() { # NODES
    local cores
    cores=$(nproc)
    mkdir -m 755 "$folder" "$folder/state" "$folder/tmp"
    mkdir -m 700 "$folder/munge"
    head -c 1024 /dev/urandom >"$folder/munge/key"
    chmod 400 "$folder/munge/key"
    cat >"$folder/slurm.conf" <<END
ClusterName=witan
SlurmctldHost=${prefix}0
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=${prefix}[0-$(($1 - 1))] CPUs=$cores State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    echo "PMIxCliTmpDirBase=$folder/tmp" >"$folder/mpi.conf"
    # Nothing of this configuration needs cgroups, which a node does not show; left alone, slurmd
    # looks for them.
    echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
}

up() {
    local nodes=${1:-2} node try
    down
    scripts/cluster.sh up "$nodes"
    configure "$nodes"
    scripts/cluster.sh exec 0 munged --force --key-file="$folder/munge/key" \
        --socket="$folder/munge.socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    export SLURM_CONF=$folder/slurm.conf
    scripts/cluster.sh exec 0 slurmctld
    for ((node = 0; node < nodes; node++)); do
        mkdir "$folder/$prefix$node"
        # PMIx makes folders of the same name on every node, and these nodes share their disk.
        scripts/cluster.sh exec "$node" sh -ec "mount --bind $folder/$prefix$node $folder/tmp
            exec slurmd"
    done
    for ((try = 0; try < 100; try++)); do
        if [[ $(scripts/cluster.sh exec 0 sinfo -h -t idle -o %D) == "$nodes" ]]; then
            return
        fi
        sleep 0.2
    done
    echo "slurm_try.sh: the nodes are not idle after 20 s; see $folder/*.log" >&2
    exit 1
}

# What runs in the nodes is ended with them.
down() {
    scripts/cluster.sh down
    rm -rf "$folder"
}

case ${1:-} in
    up) up "${@:2}" ;;
    srun | sbatch | squeue) SLURM_CONF=$folder/slurm.conf exec scripts/cluster.sh exec 0 "$@" ;;
    down) down ;;
    *)
        sed -n '2,4s/^# //p' "$0" >&2
        exit 2
        ;;
esac
