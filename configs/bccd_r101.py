"""ResNet-101 from ImageNet weights on BCCD (blood cells), for a GPU."""

from resdet.config import DataConfig, DetConfig, ModelConfig, SolverConfig, TestConfig

config = DetConfig(
    init_weights="torchvision",
    data=DataConfig(
        root="datasets/bccd",
        train="trainval",
        val="test",
        classes=("RBC", "WBC", "Platelets"),
        source="the folder BCCD of https://github.com/Shenggan/BCCD_Dataset, copied to datasets/bccd",
    ),
    # Cells are 30 to 290 pixels wide in the 640×480 photographs, which become 800×600.
    model=ModelConfig(anchor_scales=(64, 128, 256)),
    solver=SolverConfig(
        lr=4e-3, steps=2000, milestones=(1500,), warmup_steps=100, batch_size=4, eval_every=250, save_every=250
    ),
    test=TestConfig(batch_size=4),
)
