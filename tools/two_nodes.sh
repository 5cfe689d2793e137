#!/usr/bin/env bash
# Runs a job over TCP on two "machines" that are network namespaces of this one: what goes between ranks crosses a virtual cable,
# and mpirun starts them through an agent as it would through ssh.
#
#   tools/two_nodes.sh -n 4 midblock tune …
#
# Needs root, iproute2 and Open MPI 4. Files are shared, as on a cluster with a common file system.
set -euo pipefail

[[ ${1:-} == -n && $# -ge 3 ]] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
ranks=$2
shift 2

nodes=(10.77.0.1 10.77.0.2)
names=(midblock-a midblock-b)
scratch=$(mktemp -d)
clean_up() {
    for name in "${names[@]}"; do ip netns delete "$name" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap clean_up EXIT

for i in 0 1; do ip netns add "${names[i]}"; done
ip link add cable-a netns "${names[0]}" type veth peer name cable-b netns "${names[1]}"
for i in 0 1; do
    end=cable-${names[i]##*-}
    ip -n "${names[i]}" address add "${nodes[i]}/24" dev "$end"
    ip -n "${names[i]}" link set lo up
    ip -n "${names[i]}" link set "$end" up
done

# mpirun calls it as it calls ssh: AGENT HOST COMMAND…
cat >"$scratch/agent" <<AGENT
#!/usr/bin/env bash
host=\$1
shift
case \$host in ${nodes[0]}) name=${names[0]} ;; *) name=${names[1]} ;; esac
exec ip netns exec "\$name" bash -c "\$*"
AGENT
chmod +x "$scratch/agent"

each=$(((ranks + 1) / 2))
ip netns exec "${names[0]}" mpirun --allow-run-as-root --oversubscribe --bind-to none \
    -n "$ranks" --map-by node --host "${nodes[0]}:$each,${nodes[1]}:$each" \
    --mca plm_rsh_agent "$scratch/agent" --mca plm_rsh_no_tree_spawn 1 --mca oob_tcp_if_include 10.77.0.0/24 \
    --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca pml ob1 --mca mpi_yield_when_idle 1 "$@"
