from medseg3d.cli import main

main()
