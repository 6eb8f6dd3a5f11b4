"""Methods of each task, with their roles."""

from cell2sen.evaluation.scoring.baselines import method as menu


def test_the_menu_has_each_method_with_its_role() -> None:
    roles = {
        task: {method.name: method.role for method in menu.methods(task)}
        for task in ("perturb", "generate", "annotate")
    }
    assert list(roles["perturb"]) == [
        "prediction",
        "no_change",
        "control_mean",
        "mean_of_perturbed",
        "mean_shift",
        "nearest_training_cell",
        "label_shuffle",
        "similar_contexts",
        "ridge_on_control",
        "sentence_ceiling",
        "ceiling",
    ]
    assert list(roles["generate"])[1:3] == ["mean_of_all", "random_cells"]
    assert list(roles["annotate"]) == [
        "prediction",
        "majority_label",
        "label_shuffle",
        "nearest_training_cell",
        "logistic_regression",
        "ceiling",
    ]
    for methods in roles.values():
        assert methods["prediction"] == "prediction"
        assert {name for name, role in methods.items() if role == "ceiling"} <= {"ceiling", "sentence_ceiling"}
    summaries = {method.name: method.summary for method in menu.methods("perturb")}
    assert summaries["mean_shift"] == "control cells of the same context plus the mean change in training"
