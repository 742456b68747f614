package sqlite

import millpond "millpond.dev/millpond"

// A multi-instance task occupies one slot of each of its nodes. The first is in
// the task's own row, the others in task_node.

// OccupyNode notes that an instance of a task other than its first is on a node.
func (t *Tx) OccupyNode(v millpond.Task, node millpond.NodeID) error {
	n, err := t.exec(`INSERT INTO task_node (node_key, account, job_key, key) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		node.Key(), v.Account.Key(), v.Job.Key(), v.Spec.ID.Key())
	if err == nil && n > 0 {
		t.load(node, 1)
	}
	return err
}

// VacateNode undoes OccupyNode.
func (t *Tx) VacateNode(v millpond.Task, node millpond.NodeID) error {
	n, err := t.exec(`DELETE FROM task_node WHERE node_key = ? AND account = ? AND job_key = ? AND key = ?`,
		node.Key(), v.Account.Key(), v.Job.Key(), v.Spec.ID.Key())
	if err == nil && n > 0 {
		t.load(node, -1)
	}
	return err
}

func (t *Tx) load(node millpond.NodeID, by int) {
	if t.recent != nil {
		t.loads[node.Key()] = t.loads[node.Key()].plus(load{by, by})
	}
}

// InstancesOn lists the tasks that have an instance other than the first on a node.
func (t *Tx) InstancesOn(node millpond.NodeID) ([]millpond.Task, error) {
	return t.tasks(`SELECT task.spec, task.run FROM task_node JOIN task ON task.account = task_node.account AND task.job_key = task_node.job_key AND task.key = task_node.key
		WHERE task_node.node_key = ? ORDER BY task.account, task.job_key, task.key`, node.Key())
}
