"""Which sample comes when: selections, permutations, quotas, costs, and the state to resume from."""
