from rwkvquant.cli.main import main

main()
